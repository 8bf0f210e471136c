#pragma once
#include <boost/asio/awaitable.hpp>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "postgres/connection.hpp"

namespace postbus::postgres {

/** One numbered step of the schema, from sql/migrations/NNNN_name.sql. */
struct migration {
  int number{};
  std::string_view name;  ///< "0002_post"
  std::string_view sql;
  bool breaking{};        ///< its first line is `--! breaking`: programs of the version before must stop first
};

/** All steps this program knows, in order, numbered from 1 without a gap. Lives as long as the program. */
std::span<const migration> migrations();

/** The schema version this program works with: the last migration's number. */
int schema_version();

/** What a database has; version 0 when there is no schema. */
struct schema_state {
  int version{};
  std::vector<migration> pending;  ///< what this program would apply; empty when the database is as new or newer
  bool breaking() const;           ///< one of `pending` is
};

/** Reads the state. Needs the right to read postbus.meta (any of the four roles). */
asio::awaitable<result<schema_state>> read_schema(connection& session, steady::duration deadline);

/** Success when the database has exactly this program's schema; else errc::conflict that names both versions and the fix. I/O-free. */
result<> check_schema(const schema_state& state);

/**
 * Applies what is pending, in one transaction under an advisory lock (a second migrator waits, then finds nothing to do),
 * and renews roles' rights. Returns what was applied. errc::conflict: the database is newer than this program, or a pending
 * step is breaking and `allow_breaking` is false; errc::database: a step was refused, everything was undone.
 */
asio::awaitable<result<std::vector<migration>>> migrate(connection& session, bool allow_breaking, steady::duration deadline);

/** The SQL that migrate would run from `version` on, for a DBA to read and run with psql: one transaction. I/O-free. */
std::string print_setup(int version = 0);

/** The SQL of `setup --revoke-emit` (sql/setup/revoke_emit.sql). */
std::string_view revoke_emit_sql();

}  // namespace postbus::postgres
