#include "feeds/catalog.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>

#include <fmt/format.h>

#include "base/number.hpp"
#include "embedded_sql.hpp"
#include "feeds/feed_name.hpp"
#include "feeds/row_change.hpp"
#include "postgres/server_error.hpp"

namespace postbus::feeds {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;

constexpr auto deadline = 10s;
/**
 * How long the stream may wait for a commit to become visible: a pending synchronous standby can take for ever. Then the
 * stream is made anew, which is told as a gap, rather than showing rows under options that have been replaced.
 */
constexpr auto visibility_limit = 5s;

std::vector<std::string> names(std::string_view json) {
  std::vector<std::string> all;
  for (const auto& one : boost::json::parse({json.data(), json.size()}).as_array()) all.emplace_back(one.as_string());
  return all;
}

std::vector<carried_columns> partitions(std::string_view json) {
  std::vector<carried_columns> all;
  for (const auto& one : boost::json::parse({json.data(), json.size()}).as_array()) {
    auto& made = all.emplace_back(carried_columns{.partition = one.at("partition").to_number<oid>(), .all = one.at("all").as_bool()});
    for (const auto& name : one.at("names").as_array()) made.names.emplace_back(name.as_string());
  }
  return all;
}

}  // namespace

asio::awaitable<result<postgres::rows>> database_catalog::ask(std::string_view statement, postgres::parameter parameter) {
  const postgres::parameter parameters[] = {parameter};
  for (bool fresh = false;; fresh = true) {
    if (!session_ || !session_->is_open()) {
      auto opened = co_await postgres::connection::open({.conninfo = conninfo_, .application_name = "postbus catalog"});
      if (!opened) co_return opened.error();
      session_.emplace(std::move(*opened));
      fresh = true;
    }
    auto answer = co_await session_->query(embedded_sql::find(statement), parameters, deadline);
    if (answer || answer.error().code == errc::database || fresh) co_return answer;
    session_.reset();  // a session that was kept may have died meanwhile
  }
}

asio::awaitable<result<std::vector<watched_table>>> database_catalog::watched(std::uint64_t visible_xid) {
  const auto xid = std::to_string(visible_xid);
  const auto limit = steady::now() + visibility_limit;
  asio::steady_timer timer{co_await asio::this_coro::executor};
  for (;;) {
    auto found = co_await ask("statements/feeds/watched.sql", visible_xid == 0 ? postgres::parameter{} : postgres::parameter{xid});
    if (!found) co_return found.error();
    if (!found->is_true(0, 6) && steady::now() > limit)
      co_return error{errc::timed_out,
                      "a change of the watched tables is committed and cannot be seen yet: does it wait for a synchronous standby?"};
    if (found->is_true(0, 6)) {
      std::vector<watched_table> all;
      for (std::size_t row = 0; row < found->size() && found->get(row, 0); ++row) {
        auto& table = all.emplace_back();
        table.table = number<oid>(found->text(row, 0));
        table.schema = found->text(row, 1);
        table.name = found->text(row, 2);
        if (const auto columns = found->get(row, 3)) table.columns = names(*columns);
        table.notify = found->text(row, 4);
        if (const auto key = found->get(row, 5)) table.primary_key = names(*key);
        table.partitioned = found->is_true(row, 7);
        if (const auto tree = found->get(row, 8)) table.partitions = partitions(*tree);
        table.before_xid = number<std::uint64_t>(found->text(row, 9));
        table.as_of = number<std::uint64_t>(found->text(row, 10));
      }
      co_return all;
    }
    timer.expires_after(2ms);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

asio::awaitable<result<std::vector<type_row>>> database_catalog::types(std::vector<oid> types) {
  std::string list{"{"};
  for (const auto type : types) list += (list.size() > 1 ? "," : "") + std::to_string(type);
  list += '}';
  auto found = co_await ask("statements/feeds/types.sql", list);
  if (!found) co_return found.error();
  std::vector<type_row> all;
  for (std::size_t row = 0; row < found->size(); ++row) {
    auto& one = all.emplace_back();
    one.type = number<oid>(found->text(row, 0));
    one.base = number<oid>(found->text(row, 1));
    one.element = number<oid>(found->text(row, 2));
    if (const auto delimiter = found->text(row, 3); !delimiter.empty()) one.delimiter = delimiter.front();
    if (const auto attributes = found->get(row, 4))
      for (const auto& a : boost::json::parse({attributes->data(), attributes->size()}).as_array())
        one.attributes.push_back({std::string{a.at(0).as_string()}, a.at(1).to_number<oid>()});
  }
  co_return all;
}

asio::awaitable<result<std::string>> database_catalog::describe(const table_description& t) {
  boost::json::array columns;
  for (std::size_t i = 0; i < t.columns.size(); ++i)
    if (i < t.shown.size() && t.shown[i]) columns.push_back({t.columns[i].name, t.columns[i].type_oid, t.columns[i].type_modifier});
  const auto list = boost::json::serialize(columns);
  auto found = co_await ask("statements/feeds/describe.sql", list);
  if (!found) co_return found.error();
  co_return fmt::format(R"("columns":{}}})", boost::json::serialize(boost::json::parse(found->text(0, 0))));
}

asio::awaitable<result<std::string>> find_feed(postgres::connection& session, std::string table) {
  const postgres::parameter parameters[] = {table};
  // A feed's own name first: there may be another table that SQL would take the same text for.
  auto found = co_await session.query(embedded_sql::find("statements/feeds/find_exactly.sql"), parameters, deadline);
  if (found && found->size() == 0)
    found = co_await session.query_in_own_path(embedded_sql::find("statements/feeds/find.sql"), parameters, deadline);
  if (!found) {
    if (is_no_table_name(postgres::sqlstate(found.error()))) co_return no_table_name(table);
    co_return found.error();
  }
  if (found->size() > 0) co_return std::string{found->text(0, 0)};
  co_return not_watched(table);
}

}  // namespace postbus::feeds
