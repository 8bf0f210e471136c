// What the facts of a database mean: the tier, and doctor's findings with the exact fix of each. No I/O, so that every
// line can be tested without a database that has the fault.
#include <fmt/format.h>

#include <utility>

#include "postgres/connection.hpp"
#include "postgres/probe.hpp"
#include "postgres/replica_identity.hpp"

namespace postbus::postgres {
namespace {

using severity = finding::severity;
using replication = database_facts::replication_answer;

constexpr std::int64_t gigabyte = std::int64_t{1} << 30;

std::string bytes(std::int64_t count) {
  if (count >= gigabyte) return fmt::format("{:.1f} GB", static_cast<double>(count) / static_cast<double>(gigabyte));
  return fmt::format("{:.0f} MB", static_cast<double>(count) / 1048576.0);
}

std::string duration(std::int64_t seconds) {
  if (seconds >= 7200) return fmt::format("{} hours", seconds / 3600);
  if (seconds >= 120) return fmt::format("{} minutes", seconds / 60);
  return fmt::format("{} s", seconds);
}

/** Collects findings in doctor's order. */
class report {
public:
  void ok(std::string subject, std::string what) { list_.push_back({severity::ok, std::move(subject), std::move(what), {}, {}}); }
  void add(severity level, std::string subject, std::string what, std::string why, std::string fix) {
    list_.push_back({level, std::move(subject), std::move(what), std::move(why), std::move(fix)});
  }
  std::vector<finding> take() { return std::move(list_); }

private:
  std::vector<finding> list_;
};

void server(const database_facts& f, report& out) {
  if (f.server_version < 140000)
    out.add(severity::problem, "version", fmt::format("PostgreSQL {}", f.version_text),
            "Postbus needs 14 or later (logical messages in pgoutput)", "upgrade the server");
  else
    out.ok("version", fmt::format("PostgreSQL {}", f.version_text));
  if (f.in_recovery)
    out.add(severity::problem, "recovery", "the server is a standby, it takes no writes, NOTIFY or LISTEN",
            "posts and the schema need the primary",
            "give the primary's address, or several with target_session_attrs=read-write: --db "
            "'postgresql://a,b/DB?target_session_attrs=read-write'");
  if (f.encoding != "UTF8")
    out.add(severity::problem, "encoding", fmt::format("the database's encoding is {}", f.encoding),
            "events are UTF-8; other bytes could not be told apart", "create database NAME encoding 'UTF8' template template0");
}

bool no_sender(const database_facts& f) {
  return f.used_wal_senders >= f.max_wal_senders || f.replication_error.contains("max_wal_senders");
}
bool no_slot(const database_facts& f) { return f.used_replication_slots >= f.max_replication_slots; }

/** One of the two resources of which each gateway needs one: replication slots, WAL senders. */
void resource(const database_facts& f, std::string_view subject, std::string_view setting, std::string_view name, int most, bool used_up,
              std::string_view or_else, report& out) {
  const auto fix = fmt::format("alter system set {} = {};  -- then restart PostgreSQL{}", setting, most + 10, or_else);
  if (most == 0)
    out.add(severity::warning, std::string{subject}, fmt::format("{} is 0", setting),
            "messages travel by NOTIFY, and tables cannot be watched", fix);
  else if (used_up && f.gateway_reads)
    out.add(severity::note, std::string{subject},
            fmt::format("all {} {} are in use, one of them by a gateway of this database", most, name),
            "a second gateway would need another", "");
  else if (used_up)
    out.add(severity::problem, std::string{subject}, fmt::format("all {} {} are in use", most, name), "each gateway needs one", fix);
}

void replication_session(const database_facts& f, report& out) {
  if (f.replication == replication::granted) {
    out.ok("replication", fmt::format("the role {} may replicate", f.role));
  } else if (f.replication == replication::unreachable) {
    if (no_sender(f)) return;  // told below, with the setting
    out.add(f.gateway_reads ? severity::note : severity::problem, "replication",
            fmt::format("no replication session could be made: {}", f.replication_error), "the WAL is read through one",
            "check --db-direct and the limits on connections, then try again");
  } else if (f.direct_pooled) {
    out.add(severity::problem, "replication", "the pooler refuses replication sessions",
            "the WAL and LISTEN need a session of their own on the server", "--db-direct 'postgresql://…' with the server's own address");
  } else if (!f.superuser && !f.replication_attribute) {
    out.add(severity::warning, "replication", fmt::format("the role {} may not replicate", f.role),
            "messages travel by NOTIFY, and tables cannot be watched",
            fmt::format("alter role {} replication;  -- RDS, Aurora: grant rds_replication to {}", quote_identifier(f.role),
                        quote_identifier(f.role)));
  } else {
    out.add(severity::warning, "replication",
            fmt::format("the server refuses a replication session of {}: {}", f.role, f.replication_error),
            "messages travel by NOTIFY, and tables cannot be watched",
            fmt::format("in pg_hba.conf: host {} {} ADDRESS scram-sha-256  -- then: select pg_reload_conf()", f.database, f.role));
  }
}

/** What decides how messages travel; choose_tier takes its reasons from here. */
void transport(const database_facts& f, report& out) {
  if (f.wal_level == "logical")
    out.ok("wal_level", "wal_level is logical");
  else
    out.add(severity::warning, "wal_level", fmt::format("wal_level is {}", f.wal_level),
            "messages travel by NOTIFY (at most 7,999 bytes each, slow for transactions that write), and tables cannot be watched",
            "alter system set wal_level = 'logical';  -- then restart PostgreSQL (RDS, Aurora: rds.logical_replication = 1; Cloud SQL: "
            "cloudsql.logical_decoding = on)");
  replication_session(f, out);
  resource(f, "wal_senders", "max_wal_senders", "WAL senders", f.max_wal_senders, no_sender(f), "", out);
  resource(f, "slots", "max_replication_slots", "replication slots", f.max_replication_slots, no_slot(f), "; or drop a slot nobody uses",
           out);
  if (!no_slot(f))
    out.ok("slots",
           fmt::format("{} of {} replication slots are free", f.max_replication_slots - f.used_replication_slots, f.max_replication_slots));
  if (f.direct_pooled && f.replication != replication::refused)
    out.add(severity::problem, "pooler", "the direct address goes through a pooler",
            "LISTEN and replication need a session of their own on the server",
            "--db-direct 'postgresql://…' with the server's own address");
  else if (f.pooled)
    out.add(severity::note, "pooler", "--db goes through a pooler, --db-direct does not", "that is as it should be", "");
}

void limits(const database_facts& f, report& out) {
  if (f.wal_level == "logical" && f.max_slot_wal_keep_bytes < 0)
    out.add(severity::warning, "slot_wal", "a slot may keep WAL without bound (max_slot_wal_keep_size = -1)",
            "a reader that hangs, of whatever program, can fill the server's disk; Postbus therefore takes a temporary slot, and listeners "
            "cannot resume across its restarts",
            "alter system set max_slot_wal_keep_size = '4GB'; select pg_reload_conf();");
  if (f.synchronous_commit == "off")
    out.add(severity::note, "synchronous_commit", "synchronous_commit is off",
            "commits reach the WAL reader only when they are flushed: the first message after a pause can be 0.45 s late; the gateway then "
            "makes the server flush",
            "");
  const int locks = f.max_locks_per_transaction * (f.max_connections + f.max_prepared_transactions);
  if (locks < 6400)
    out.add(severity::warning, "lock_table", fmt::format("the lock table has {} places", locks),
            "when it is full, no session of the whole server can work",
            "alter system set max_locks_per_transaction = 64;  -- then restart PostgreSQL");
  if (f.notify_queue_usage.value_or(0) >= 0.5)
    out.add(severity::warning, "notify_queue", fmt::format("the NOTIFY queue is {:.0f} % full", *f.notify_queue_usage * 100),
            "when it is full, transactions that NOTIFY fail; a session that LISTENs sits in an open transaction",
            "select pid, application_name, xact_start from pg_stat_activity where state like 'idle in transaction%' order by xact_start;");
}

void obstacles(const database_facts& f, report& out) {
  for (const auto& slot : f.logical_slots) {
    const bool lost = slot.wal_status == "lost";
    if (slot.active || slot.temporary) continue;
    const bool looks_ours = slot.name.starts_with("postbus");
    if (!looks_ours && !lost && slot.retained_bytes < gigabyte) continue;
    out.add(
        severity::warning, "orphan_slot",
        fmt::format("nobody reads the slot {}, which keeps {} of WAL{}", slot.name, bytes(slot.retained_bytes), lost ? " and is lost" : ""),
        looks_ours ? "it holds WAL and old rows back until a gateway reads it again (start yours: postbus serve) or it is dropped"
                   : "it holds WAL and old rows back until it is read or dropped",
        fmt::format("select pg_drop_replication_slot({});{}", quote_literal(slot.name),
                    looks_ours ? "  -- only if no gateway comes back to it: one that does loses what it held, and its listeners start over"
                               : "  -- if its owner does not need it"));
  }
  for (const auto& p : f.prepared_transactions)
    if (p.age_seconds >= 60)
      out.add(severity::warning, "prepared", fmt::format("the prepared transaction {} has been open for {}", p.id, duration(p.age_seconds)),
              "a gateway that starts waits for it before it can read, and it holds old rows back",
              fmt::format("rollback prepared {0};  -- or commit prepared {0};", quote_literal(p.id)));
  for (const auto& w : f.open_writers)
    out.add(severity::warning, "open_transaction",
            fmt::format("a transaction that has written is open for {} (pid {}{}{})", duration(w.age_seconds), w.pid,
                        w.application.empty() ? "" : ", ", w.application),
            fmt::format("a gateway that starts waits for it before it can read{}",
                        w.idle ? "; it is idle, so its program has probably forgotten it" : ""),
            fmt::format("select pg_terminate_backend({});", w.pid));
}

void schema(const database_facts& f, int wanted, report& out) {
  if (f.schema_version == 0) {
    out.add(severity::problem, "schema", fmt::format("there is no schema postbus that {} can see", f.role),
            fmt::format("this program needs version {}", wanted),
            fmt::format("postbus setup  -- or, if it is installed: grant postbus_admin to {}", quote_identifier(f.role)));
    return;
  }
  if (f.schema_version != wanted)
    out.add(severity::problem, "schema", fmt::format("the schema has version {}, this program needs {}", f.schema_version, wanted),
            "they must fit", f.schema_version < wanted ? "postbus setup" : "use a newer postbus");
  else
    out.ok("schema", fmt::format("schema version {}", f.schema_version));
  if (!f.may_administer)
    out.add(severity::warning, "rights", fmt::format("the role {} may post or listen, but not run a gateway or watch tables", f.role),
            "a gateway keeps the epoch and the transport", fmt::format("grant postbus_admin to {};", quote_identifier(f.role)));
  if (f.first_schema == "postbus")
    out.add(severity::warning, "search_path",
            fmt::format("tables that {} creates without a schema's name go to the schema postbus", f.role), "they cannot be watched there",
            fmt::format("alter role {} set search_path = public;", quote_identifier(f.role)));
  if (f.wal_level == "logical") {
    if (!f.publication_exists)
      out.add(severity::problem, "publication", "the publication postbus is missing", "nothing can be read from the WAL without it",
              "select postbus.repair_publication();");
    else if (f.publication_all_tables)
      out.add(severity::problem, "publication", "the publication postbus is FOR ALL TABLES",
              "UPDATE and DELETE fail on every table without a replica identity",
              "drop publication postbus; select postbus.repair_publication();");
    else if (!f.publication_intact)
      out.add(severity::problem, "publication", "the publication postbus was altered", "feeds lack some of their changes",
              "select postbus.repair_publication();");
    for (const auto& table : f.published_unwatched)
      out.add(severity::warning, "publication", fmt::format("{} is in the publication postbus, but is not watched", table),
              "its changes are sent to the gateway for nothing",
              fmt::format("alter publication postbus drop table {};  -- or: select postbus.watch({})", table, quote_literal(table)));
  }
  for (const auto& w : f.watched_tables) {
    if (!w.fault.empty())
      out.add(severity::problem, "watched", w.fault, fmt::format("{} is watched", w.table), w.fix + ";");
    else if (!w.published && f.publication_exists)
      out.add(severity::problem, "watched", fmt::format("{} is watched, but not in the publication", w.table), "its feed is silent",
              "select postbus.repair_publication();");
    else if (!w.narrow_partition.empty())
      out.add(severity::note, "filters",
              fmt::format("filters on the feed of {} are exact for {}", w.table,
                          w.identity.empty() ? std::string{"no column that all its partitions carry"} : "the columns " + w.identity),
              "each partition has a replica identity of its own, a new one its primary key; for what one does not carry nobody can tell "
              "when a row stops matching",
              fmt::format("alter table {} replica identity full;{}", w.narrow_partition,
                          w.narrow_partitions > 1 ? fmt::format("  -- and the same for {} more", w.narrow_partitions - 1) : ""));
    else if (!w.identity.empty())
      out.add(severity::note, "filters", fmt::format("filters on the feed of {} are exact for the columns {}", w.table, w.identity),
              "for others nobody can tell when a row stops matching, so they are refused",
              fmt::format("{};  -- NOT NULL columns; or, for any filter and with more WAL: alter table {} replica identity full;",
                          identity_by_index({w.table, w.bare}, w.identity + ", COLUMN", w.identity_columns + 1), w.table));
  }
  if (f.anyone_may_emit)
    out.add(severity::note, "forgery", "whoever can log in to this database may run pg_logical_emit_message",
            "and so forge a message on any channel; by default PostgreSQL allows that to everybody", "postbus setup --revoke-emit");
}

}  // namespace

std::string_view name(tier::kind transport) { return transport == tier::kind::wal ? "wal" : "notify"; }

std::string_view name(finding::severity level) {
  switch (level) {
    case severity::ok: return "ok";
    case severity::note: return "note";
    case severity::warning: return "warning";
    case severity::problem: return "problem";
  }
  return "problem";
}

tier choose_tier(const database_facts& facts) {
  report out;
  transport(facts, out);
  const auto because = [&](std::string_view subject, tier::kind chosen, bool certain) {
    for (auto& one : out.take())
      if (one.subject == subject) return tier{chosen, std::move(one.what), std::move(one.fix), certain};
    return tier{chosen, {}, {}, certain};
  };
  if (facts.wal_level != "logical") return because("wal_level", tier::kind::notify, true);
  if (facts.replication == replication::refused) return because("replication", tier::kind::notify, true);
  if (facts.max_wal_senders == 0) return because("wal_senders", tier::kind::notify, true);
  if (facts.max_replication_slots == 0) return because("slots", tier::kind::notify, true);
  if (facts.gateway_reads) return {};
  const auto so_far = facts.transport == "notify" ? tier::kind::notify : tier::kind::wal;
  if (facts.replication == replication::unreachable) return because(no_sender(facts) ? "wal_senders" : "replication", so_far, false);
  if (no_slot(facts)) return because("slots", so_far, false);
  return {};
}

std::vector<finding> examine(const database_facts& facts, int wanted_schema) {
  report out;
  server(facts, out);
  transport(facts, out);
  limits(facts, out);
  obstacles(facts, out);
  schema(facts, wanted_schema, out);
  return out.take();
}

}  // namespace postbus::postgres
