// The probe: one look at a database, without changing it. The statements stand in sql/statements/probe. What the facts
// mean is decided in findings.cpp, without a database.
#include "postgres/probe.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "embedded_sql.hpp"
#include "postgres/connection.hpp"
#include "postgres/replication_stream.hpp"

namespace postbus::postgres {
namespace {

/** Reads one row by column name, so that the statements may change their order. */
class row_reader {
public:
  row_reader(const rows& from, std::size_t row) : from_{from}, row_{row} {}
  std::string text(std::string_view column) const { return std::string{value(column).value_or("")}; }
  bool flag(std::string_view column) const { return value(column) == "t"; }
  template <class Int>
  void number(std::string_view column, Int& into) const {
    const auto found = value(column).value_or("");
    std::from_chars(found.data(), found.data() + found.size(), into);
  }
  std::optional<double> real(std::string_view column) const {
    const auto found = value(column);
    if (!found) return std::nullopt;
    return std::strtod(std::string{*found}.c_str(), nullptr);
  }

private:
  std::optional<std::string_view> value(std::string_view column) const {
    for (std::size_t i = 0; i < from_.columns(); ++i)
      if (from_.name(i) == column) return from_.get(row_, i);
    return std::nullopt;
  }
  const rows& from_;
  std::size_t row_;
};

asio::awaitable<result<rows>> ask(connection& session, std::string_view file, steady::duration deadline) {
  return session.query(embedded_sql::find(file), {}, deadline);
}

struct seen {
  bool schema{};
};

result<seen> read_facts(const rows& answer, database_facts& facts) {
  if (answer.size() != 1) return error{errc::protocol, "the database does not know the role of its own session"};
  const row_reader row{answer, 0};
  row.number("server_version", facts.server_version);
  facts.version_text = row.text("version_text");
  facts.database = row.text("database");
  facts.role = row.text("role");
  facts.encoding = row.text("encoding");
  facts.in_recovery = row.flag("in_recovery");
  facts.wal_level = row.text("wal_level");
  facts.synchronous_commit = row.text("synchronous_commit");
  facts.superuser = row.flag("superuser");
  facts.replication_attribute = row.flag("replication_attribute");
  row.number("max_replication_slots", facts.max_replication_slots);
  row.number("used_replication_slots", facts.used_replication_slots);
  row.number("max_wal_senders", facts.max_wal_senders);
  row.number("used_wal_senders", facts.used_wal_senders);
  row.number("max_slot_wal_keep_bytes", facts.max_slot_wal_keep_bytes);
  row.number("max_connections", facts.max_connections);
  row.number("max_locks_per_transaction", facts.max_locks_per_transaction);
  row.number("max_prepared_transactions", facts.max_prepared_transactions);
  facts.notify_queue_usage = row.real("notify_queue_usage");
  facts.anyone_may_emit = row.flag("anyone_may_emit");
  facts.may_administer = row.flag("may_administer");
  return seen{row.flag("sees_schema")};
}

void read_slots(const rows& answer, database_facts& facts) {
  for (std::size_t i = 0; i < answer.size(); ++i) {
    const row_reader row{answer, i};
    database_facts::slot one{.name = row.text("slot_name"),
                             .plugin = row.text("plugin"),
                             .wal_status = row.text("wal_status"),
                             .ours = row.flag("ours"),
                             .active = row.flag("active"),
                             .temporary = row.flag("temporary")};
    row.number("retained_bytes", one.retained_bytes);
    facts.logical_slots.push_back(std::move(one));
  }
}

void read_waits(const rows& prepared, const rows& writers, database_facts& facts) {
  for (std::size_t i = 0; i < prepared.size(); ++i) {
    const row_reader row{prepared, i};
    database_facts::prepared one{.id = row.text("gid")};
    row.number("age_seconds", one.age_seconds);
    facts.prepared_transactions.push_back(std::move(one));
  }
  for (std::size_t i = 0; i < writers.size(); ++i) {
    const row_reader row{writers, i};
    database_facts::writer one{.application = row.text("application"), .idle = row.flag("idle")};
    row.number("pid", one.pid);
    row.number("age_seconds", one.age_seconds);
    facts.open_writers.push_back(std::move(one));
  }
}

asio::awaitable<result<>> read_schema_facts(connection& session, database_facts& facts, steady::duration deadline) {
  auto schema = co_await ask(session, "statements/probe/schema.sql", deadline);
  if (!schema) co_return schema.error();
  if (schema->size() != 1) co_return result<>{};
  const row_reader row{*schema, 0};
  row.number("schema_version", facts.schema_version);
  facts.transport = row.text("transport");
  facts.publication_exists = row.flag("publication_exists");
  facts.publication_all_tables = row.flag("publication_all_tables");
  facts.publication_intact = row.flag("publication_intact");
  co_return result<>{};
}

asio::awaitable<result<>> read_watched(connection& session, database_facts& facts, steady::duration deadline) {
  auto watched = co_await ask(session, "statements/probe/watched.sql", deadline);
  if (!watched) {
    const auto why = watched.error();
    if (sqlstate(why) == "42501") co_return result<>{};  // a poster may not see them, and needs not
    co_return why;
  }
  for (std::size_t i = 0; i < watched->size(); ++i) {
    const row_reader one{*watched, i};
    if (!one.flag("watched")) {
      facts.published_unwatched.push_back(one.text("table_name"));
      continue;
    }
    auto& found = facts.watched_tables.emplace_back(database_facts::watched{.table = one.text("table_name"),
                                                                            .fault = one.text("fault"),
                                                                            .fix = one.text("fix"),
                                                                            .published = one.flag("published"),
                                                                            .identity = one.text("identity"),
                                                                            .bare = one.text("bare"),
                                                                            .narrow_partition = one.text("narrow_partition")});
    one.number("identity_columns", found.identity_columns);
    one.number("narrow_partitions", found.narrow_partitions);
  }
  co_return result<>{};
}

/** What stands before the attempt: the server, its slots, the transport in use. */
asio::awaitable<result<>> look_at_transport(connection& session, database_facts& facts, steady::duration deadline) {
  auto answer = co_await ask(session, "statements/probe/facts.sql", deadline);
  if (!answer) co_return answer.error();
  const auto read = read_facts(*answer, facts);
  if (!read) co_return read.error();
  facts.pooled = session.pooled();
  auto first = co_await session.query_in_own_path(embedded_sql::find("statements/probe/first_schema.sql"), {}, deadline);
  if (!first) co_return first.error();
  facts.first_schema = first->text(0, 0);
  auto slots = co_await ask(session, "statements/probe/slots.sql", deadline);
  if (!slots) co_return slots.error();
  read_slots(*slots, facts);
  if (!read->schema) co_return result<>{};
  co_return co_await read_schema_facts(session, facts, deadline);
}

/** Whether `direct`, another address than --db's, goes through a pooler. */
asio::awaitable<result<>> look_for_pooler(std::string direct, database_facts& facts, steady::duration deadline) {
  auto session = co_await connection::open({.conninfo = std::move(direct), .application_name = "postbus probe", .deadline = deadline});
  if (!session) co_return error{session.error().code, "--db-direct: " + session.error().text, session.error().detail};
  facts.direct_pooled = session->pooled();
  co_return result<>{};
}

/** Tries what the reader will do. */
asio::awaitable<void> try_replication(std::string direct, database_facts& facts, steady::duration deadline) {
  auto stream =
      co_await replication_stream::open({.conninfo = std::move(direct), .application_name = "postbus probe", .deadline = deadline});
  if (stream) co_return;
  const auto why = stream.error();
  const auto state = sqlstate(why);
  // insufficient_privilege; invalid authorisation (no line in pg_hba.conf); a pooler that does not know the parameter.
  const bool refused = state == "42501" || state.starts_with("28") || state == "08P01";
  facts.replication = refused ? database_facts::replication_answer::refused : database_facts::replication_answer::unreachable;
  facts.replication_error = why.detail.empty() ? why.text : why.detail;
}

}  // namespace

asio::awaitable<result<database_facts>> probe_transport(connection& session, std::string db, std::string direct,
                                                        steady::duration deadline) {
  database_facts facts;
  auto looked = co_await look_at_transport(session, facts, deadline);
  if (!looked) co_return looked.error();
  co_await try_replication(direct, facts, deadline);
  facts.direct_pooled = facts.pooled;
  if (facts.replication != database_facts::replication_answer::granted && direct != db) {
    auto second = co_await look_for_pooler(std::move(direct), facts, deadline);
    if (!second) co_return second.error();
  }
  co_return facts;
}

asio::awaitable<result<database_facts>> probe(std::string db, std::string direct, steady::duration deadline) {
  database_facts facts;
  auto session = co_await connection::open({.conninfo = db, .application_name = "postbus probe", .deadline = deadline});
  if (!session) co_return session.error();
  auto looked = co_await look_at_transport(*session, facts, deadline);
  if (!looked) co_return looked.error();
  auto prepared = co_await ask(*session, "statements/probe/prepared.sql", deadline);
  if (!prepared) co_return prepared.error();
  auto writers = co_await ask(*session, "statements/probe/writers.sql", deadline);
  if (!writers) co_return writers.error();
  read_waits(*prepared, *writers, facts);
  facts.gateway_reads =
      std::ranges::any_of(facts.logical_slots, [](const auto& one) { return one.ours && one.active && one.name.starts_with("postbus_"); });
  if (facts.schema_version != 0) {
    auto watched = co_await read_watched(*session, facts, deadline);
    if (!watched) co_return watched.error();
  }
  session->close();

  facts.direct_pooled = facts.pooled;
  if (direct != db) {
    auto second = co_await look_for_pooler(direct, facts, deadline);
    if (!second) co_return second.error();
  }
  co_await try_replication(std::move(direct), facts, deadline);
  co_return facts;
}

}  // namespace postbus::postgres
