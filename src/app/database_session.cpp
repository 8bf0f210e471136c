#include "app/database_session.hpp"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <exception>
#include <optional>

#include "embedded_sql.hpp"
#include "postgres/server_error.hpp"
#include "version.hpp"

namespace postbus::app {
namespace asio = boost::asio;
namespace {

template <class T>
asio::awaitable<void> keep(asio::awaitable<T> work, std::optional<T>& into) {
  auto value = co_await std::move(work);
  into.emplace(std::move(value));
}

/** Runs the loop until the coroutine has ended. Nothing else lives on it. */
template <class T>
T wait_for(asio::io_context& loop, asio::awaitable<T> work) {
  std::optional<T> out;
  std::exception_ptr failure;
  bool done = false;
  asio::co_spawn(loop, keep(std::move(work), out), [&](std::exception_ptr thrown) {
    failure = thrown;
    done = true;
  });
  loop.restart();
  while (!done) loop.run_one();
  if (failure) std::rethrow_exception(failure);
  return std::move(*out);
}

}  // namespace

struct database_session::impl {
  asio::io_context loop{1};
  std::optional<postgres::connection> connection;
};

database_session::database_session(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
database_session::database_session(database_session&&) noexcept = default;
database_session& database_session::operator=(database_session&&) noexcept = default;
database_session::~database_session() = default;

result<database_session> database_session::open(const std::string& conninfo) {
  auto made = std::make_unique<impl>();
  auto opened = wait_for(made->loop, postgres::connection::open({.conninfo = conninfo}));
  if (!opened) return opened.error();
  made->connection.emplace(std::move(*opened));
  return database_session{std::move(made)};
}

result<database_session> database_session::open_checked(const std::string& conninfo) {
  auto made = open(conninfo);
  if (!made) return made;
  auto& session = *made;
  const auto found = session.run("statements/cli/schema_version.sql");
  const bool missing = !found && (postgres::sqlstate(found.error()) == "42P01" || postgres::sqlstate(found.error()) == "3F000");
  if (missing || (found && found->size() == 0))
    return error{errc::unsupported, "the schema `postbus` is not in this database: run `postbus setup` on it, or `postbus serve`, which installs it"};
  if (!found) return found.error();
  const std::string installed{found->text(0, 0)};
  if (installed != std::to_string(schema_version))
    return error{errc::unsupported,
                 fmt::format("the database has version {} of the schema and this program (postbus {}) works with version {}: {}", installed, version, schema_version,
                             std::atoi(installed.c_str()) < schema_version ? "run `postbus setup` to upgrade it" : "use a newer postbus")};
  return made;
}

result<postgres::rows> database_session::query(std::string_view sql, std::span<const postgres::parameter> parameters, steady::duration deadline) {
  return wait_for(impl_->loop, impl_->connection->query(sql, parameters, deadline));
}

result<postgres::rows> database_session::run(std::string_view statement, std::span<const postgres::parameter> parameters, steady::duration deadline) {
  const auto sql = embedded_sql::find(statement);
  if (sql.data() == nullptr) return error{errc::internal, fmt::format("there is no statement {}", statement)};
  return query(sql, parameters, deadline);
}

}  // namespace postbus::app
