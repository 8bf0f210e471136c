// Migrations: how a schema gets from one version to the next.
//
// 1. The numbered files of sql/migrations travel inside the binary. Their order is their number; there is no way back.
// 2. migrate opens a transaction, takes an advisory lock (two gateways that start together: the second waits, then
//    finds nothing to do), reads the version, and refuses to go down.
// 3. Each step inserts its row into postbus.migrations, then runs. PostgreSQL's DDL is transactional: a step that fails
//    undoes all of them.
// 4. Rights are granted last, from one list (sql/setup/rights.sql), and again at every setup.
//
// Not promised: that a migration is quick. None so far touches a user's table.
#include "postgres/migrations.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/number.hpp"
#include "embedded_sql.hpp"

namespace postbus::postgres {
namespace {

constexpr std::string_view folder = "migrations/";

// 0x706f7374627573 is "postbus" in ASCII.
constexpr std::string_view preamble =
    "begin;\n"
    "set local search_path = pg_catalog, pg_temp;\n"
    "select pg_catalog.pg_advisory_xact_lock(x'706f7374627573'::bigint);\n";

std::vector<migration> load() {
  std::vector<migration> found;
  for (const auto& file : embedded_sql::files()) {
    if (!file.path.starts_with(folder)) continue;
    migration step{.name = file.path.substr(folder.size()), .sql = file.content, .breaking = file.content.starts_with("--! breaking")};
    step.name.remove_suffix(std::string_view{".sql"}.size());
    step.number = number<int>(step.name.substr(0, 4));
    found.push_back(step);
  }
  std::ranges::sort(found, {}, &migration::number);
  return found;
}

std::vector<migration> after(int version) {
  std::vector<migration> rest;
  std::ranges::copy_if(migrations(), std::back_inserter(rest), [&](const migration& m) { return m.number > version; });
  return rest;
}

std::string one_step(const migration& m) {
  return fmt::format("insert into postbus.migrations (number, name, breaking) values ({}, {}, {});\n{}\n", m.number, quote_literal(m.name),
                     m.breaking, m.sql);
}

std::string finish() {
  return fmt::format("update postbus.meta set schema_version = {} where schema_version <> {};\n{}\n", schema_version(), schema_version(),
                     embedded_sql::find("setup/rights.sql"));
}

error newer(int version) {
  return {errc::conflict,
          fmt::format("the database has schema version {}, this program knows {}: use a newer postbus; a schema never goes back", version,
                      schema_version())};
}

error refused_step(std::string_view name, error why) {
  const auto state = sqlstate(why);
  auto text = state == "42501"
                  ? fmt::format(
                        "the role may not install the schema (step {}): run setup as the database's owner, or give the output of "
                        "`postbus setup --print` to a DBA",
                        name)
                  : fmt::format("step {} was refused, nothing was changed: {}", name, why.text);
  return {why.code, std::move(text), std::move(why.detail)};
}

/** Steps 2 to 4, inside the transaction that `migrate` opened and ends. */
asio::awaitable<result<std::vector<migration>>> run_steps(connection& session, bool allow_breaking, steady::duration deadline) {
  const auto prepared = co_await session.execute(embedded_sql::find("setup/bootstrap.sql"), deadline);
  if (!prepared) co_return refused_step("bootstrap", prepared.error());
  const auto current = co_await session.query("select coalesce(max(number), 0) from postbus.migrations", {}, deadline);
  if (!current) co_return refused_step("bootstrap", current.error());
  const auto version = number<int>(current->text(0, 0));
  if (version > schema_version()) co_return newer(version);
  const schema_state state{.version = version, .pending = after(version)};
  if (version > 0 && state.breaking() && !allow_breaking) co_return check_schema(state).error();
  for (const auto& step : state.pending) {
    const auto sql = one_step(step);
    const auto done = co_await session.execute(sql, deadline);
    if (!done) co_return refused_step(step.name, done.error());
  }
  const auto last = finish();
  const auto rights = co_await session.execute(last, deadline);
  if (!rights) co_return refused_step("rights", rights.error());
  co_return state.pending;
}

}  // namespace

std::span<const migration> migrations() {
  static const auto all = load();
  return all;
}

int schema_version() { return migrations().back().number; }

bool schema_state::breaking() const { return std::ranges::any_of(pending, &migration::breaking); }

asio::awaitable<result<schema_state>> read_schema(connection& session, steady::duration deadline) {
  const auto found = co_await session.query(embedded_sql::find("statements/schema_version.sql"), {}, deadline);
  if (!found) {
    const auto why = found.error();
    const auto state = sqlstate(why);
    if (state != "42P01" && state != "3F000") co_return why;  // undefined_table, invalid_schema_name
    co_return schema_state{.version = 0, .pending = after(0)};
  }
  const auto version = found->size() ? number<int>(found->text(0, 0)) : 0;
  co_return schema_state{.version = version, .pending = after(version)};
}

result<> check_schema(const schema_state& state) {
  if (state.version > schema_version()) return newer(state.version);
  if (state.pending.empty()) return {};
  if (state.version == 0)
    return error{errc::conflict,
                 fmt::format("the database has no postbus schema, this program needs version {}: run postbus setup", schema_version())};
  return error{errc::conflict,
               fmt::format("the database has schema version {}, this program needs {}: {}run postbus setup", state.version,
                           schema_version(), state.breaking() ? "stop the gateways and workers of the older version, then " : "")};
}

asio::awaitable<result<std::vector<migration>>> migrate(connection& session, bool allow_breaking, steady::duration deadline) {
  const auto begun = co_await session.execute(preamble, deadline);
  if (!begun) {
    if (session.is_open()) co_await session.execute("rollback", deadline);
    co_return begun.error();
  }
  auto applied = co_await run_steps(session, allow_breaking, deadline);
  if (!session.is_open()) co_return applied;
  const auto ended = co_await session.execute(applied ? "commit" : "rollback", deadline);
  if (applied && !ended) co_return refused_step("commit", ended.error());
  co_return applied;
}

std::string print_setup(int version) {
  std::string out =
      fmt::format("-- The schema of Postbus, version {}{}.\n-- Run it with: psql -v ON_ERROR_STOP=1 -f FILE\n{}{}\n", schema_version(),
                  version ? fmt::format(", from version {}", version) : "", preamble, embedded_sql::find("setup/bootstrap.sql"));
  for (const auto& step : after(version)) out += one_step(step);
  return out + finish() + "commit;\n";
}

std::string_view revoke_emit_sql() { return embedded_sql::find("setup/revoke_emit.sql"); }

}  // namespace postbus::postgres
