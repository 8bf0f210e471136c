#include <fmt/format.h>

#include <array>

#include "app/commands.hpp"
#include "app/database_session.hpp"
#include "app/terminal.hpp"
#include "feeds/feed_name.hpp"
#include "postgres/server_error.hpp"

namespace postbus::app {
namespace {

/** Runs one statement for each table, in turn; what succeeded before a failure stays. */
int for_each_table(const targets& at, const std::vector<std::string>& tables, std::string_view statement, std::string_view said,
                   std::span<const postgres::parameter> rest) {
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  auto session = database_session::open_checked(*database);
  if (!session) return tell(session.error());
  for (const auto& table : tables) {
    std::vector<postgres::parameter> parameters{table};
    parameters.insert(parameters.end(), rest.begin(), rest.end());
    const auto done = session->run_in_own_path(statement, parameters);
    if (!done) {
      const auto why = done.error();
      const auto state = postgres::sqlstate(why);
      if (feeds::is_no_table_name(state)) return tell(exit_failed, feeds::no_table_name(visible(table)).text);
      if (state == "42P01" || state == "3F000")
        return tell(exit_failed, fmt::format("{}: there is no such table in the search_path; name it with its schema, as in public.orders",
                                             visible(table)));
      return tell(error{why.code, fmt::format("{}: {}", table, why.text), why.detail});
    }
    fmt::print(stderr, "{} {}\n", said, visible(table));
  }
  return exit_ok;
}

/** The names as the text of a PostgreSQL array. */
std::string array_text(const std::vector<std::string>& names) {
  std::string out{'{'};
  for (const auto& name : names) {
    out += out.size() == 1 ? "\"" : ",\"";
    for (const char c : name) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    out += '"';
  }
  return out += '}';
}

}  // namespace

int watch(const targets& at, const watch_options& options) {
  const auto columns = array_text(options.columns);
  const std::array<postgres::parameter, 3> rest{options.columns.empty() ? postgres::parameter{} : columns,
                                                options.notify.empty() ? postgres::parameter{} : options.notify, options.rls};
  return for_each_table(at, options.tables, "statements/cli/watch.sql", "watching", rest);
}

int unwatch(const targets& at, const std::vector<std::string>& tables) {
  return for_each_table(at, tables, "statements/cli/unwatch.sql", "no longer watching", {});
}

int watched(const targets& at, const watched_options& options) {
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  auto session = database_session::open_checked(*database);
  if (!session) return tell(session.error());
  const auto rows = session->run("statements/cli/watched.sql");
  if (!rows) return tell(rows.error());
  if (options.json) {
    for (std::size_t row = 0; row < rows->size(); ++row) fmt::print("{}\n", rows->text(row, rows->columns() - 1));
    return exit_ok;
  }
  if (rows->size() == 0) {
    fmt::print(stderr, "no table is watched; `postbus watch TABLE` starts a feed\n");
    return exit_ok;
  }
  const terminal on{stdout};
  table out{{{"table"}, {"channel"}, {"columns"}, {"mirrored to"}, {"state"}}};
  for (std::size_t row = 0; row < rows->size(); ++row) {
    const auto text = [&](std::size_t column) { return std::string{rows->text(row, column)}; };
    out.add({{text(0), style::name}, {text(1)}, {text(2)}, {text(3)}, {text(4), text(4) == "live" ? style::good : style::warn}});
  }
  fmt::print("{}", out.text(on));
  return exit_ok;
}

}  // namespace postbus::app
