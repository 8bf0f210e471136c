#include "app/database_session.hpp"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>

#include "embedded_sql.hpp"
#include "postgres/migrations.hpp"

namespace postbus::app {
namespace asio = boost::asio;
namespace {

/** Runs the loop until the coroutine has ended. Nothing else lives on it. */
void run_to_end(asio::io_context& loop, asio::awaitable<void> work) {
  std::exception_ptr failure;
  bool done = false;
  asio::co_spawn(loop, std::move(work), [&](std::exception_ptr thrown) {
    failure = thrown;
    done = true;
  });
  loop.restart();
  while (!done) loop.run_one();
  if (failure) std::rethrow_exception(failure);
}

asio::awaitable<void> connect(const std::string& conninfo, std::optional<result<postgres::connection>>& into) {
  postgres::connect_options options{.conninfo = conninfo};
  auto opened = co_await postgres::connection::open(std::move(options));
  into.emplace(std::move(opened));
}

}  // namespace

void run_to_end(asio::awaitable<void> work) {
  asio::io_context loop{1};
  run_to_end(loop, std::move(work));
}

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
  std::optional<result<postgres::connection>> opened;
  run_to_end(made->loop, connect(conninfo, opened));
  if (!*opened) return opened->error();
  made->connection.emplace(std::move(**opened));
  return database_session{std::move(made)};
}

result<database_session> database_session::open_checked(const std::string& conninfo) {
  auto made = open(conninfo);
  if (!made) return made;
  const auto state =
      made->await<result<postgres::schema_state>>([](postgres::connection& on) { return postgres::read_schema(on, patience); });
  if (!state) return state.error();
  if (const auto fits = postgres::check_schema(*state); !fits) return fits.error();
  return made;
}

postgres::connection& database_session::connection() { return *impl_->connection; }
void database_session::complete(asio::awaitable<void> work) { run_to_end(impl_->loop, std::move(work)); }

result<postgres::rows> database_session::query(std::string_view sql, std::span<const postgres::parameter> parameters,
                                               steady::duration deadline) {
  return await<result<postgres::rows>>([&](postgres::connection& on) { return on.query(sql, parameters, deadline); });
}

result<postgres::rows> database_session::run(std::string_view statement, std::span<const postgres::parameter> parameters,
                                             steady::duration deadline) {
  const auto sql = embedded_sql::find(statement);
  if (sql.data() == nullptr) return error{errc::internal, fmt::format("there is no statement {}", statement)};
  return query(sql, parameters, deadline);
}

result<postgres::rows> database_session::run_in_own_path(std::string_view statement, std::span<const postgres::parameter> parameters,
                                                         steady::duration deadline) {
  return await<result<postgres::rows>>(
      [&](postgres::connection& on) { return on.query_in_own_path(embedded_sql::find(statement), parameters, deadline); });
}

}  // namespace postbus::app
