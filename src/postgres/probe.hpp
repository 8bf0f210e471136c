#pragma once
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::postgres {

namespace asio = boost::asio;
class connection;

/** What a database offers, as one look found it. Numbers that the role may not see are absent. */
struct database_facts {
  int server_version{};         ///< 150020 for 15.20
  std::string version_text;     ///< "15.20 (Debian …)"
  std::string database, role;
  std::string encoding{"UTF8"};
  bool in_recovery{};
  std::string wal_level{"logical"};
  std::string synchronous_commit{"on"};
  std::string first_schema{"public"};  ///< where an unqualified CREATE TABLE of this role goes; "" nowhere

  bool superuser{};
  bool replication_attribute{};
  /** Whether a replication session was granted: tried, not guessed, since pg_hba.conf, providers and poolers have a say. */
  enum class replication_answer { granted, refused, unreachable } replication{replication_answer::granted};
  std::string replication_error;  ///< the server's words, behind their SQLSTATE in brackets where there is one

  bool pooled{};         ///< the session of --db goes through a pooler
  bool direct_pooled{};  ///< the session of --db-direct does

  int max_replication_slots{10}, used_replication_slots{};
  int max_wal_senders{10}, used_wal_senders{};
  std::int64_t max_slot_wal_keep_bytes{-1};  ///< -1: no bound
  int max_connections{100}, max_locks_per_transaction{64}, max_prepared_transactions{};
  std::optional<double> notify_queue_usage;  ///< 0 to 1
  bool anyone_may_emit{};  ///< PUBLIC may run pg_logical_emit_message, so posts can be forged

  struct slot {
    std::string name{}, plugin{}, wal_status{};  ///< wal_status: reserved, extended, unreserved, lost
    bool ours{};                           ///< of this database
    bool active{}, temporary{};
    std::int64_t retained_bytes{};
  };
  std::vector<slot> logical_slots;
  /** A gateway has a slot of this database in use: what is used up is not missing. A gateway that starts does not ask. */
  bool gateway_reads{};

  struct prepared {
    std::string id;
    std::int64_t age_seconds{};
  };
  std::vector<prepared> prepared_transactions;

  struct writer {
    int pid{};
    std::int64_t age_seconds{};
    std::string application;
    bool idle{};  ///< idle in transaction
  };
  /** Transactions that have written and are open for more than ten seconds, oldest first: a slot's creation waits for them. */
  std::vector<writer> open_writers;

  // The schema, if there is one.
  int schema_version{};           ///< 0: none, or not visible to this role
  std::string transport{"wal"};   ///< what post() uses at the moment
  bool may_administer{true};      ///< this role may do what a gateway does
  bool publication_exists{true}, publication_all_tables{}, publication_intact{true};
  std::vector<std::string> published_unwatched;  ///< tables that somebody else put into our publication
  struct watched {
    std::string table, fault, fix;  ///< fault "" when it works
    bool published{true};
    std::string identity{};  ///< the columns that its replica identity carries; "" where that is FULL
    std::string bare{};  ///< its name without the schema, as SQL takes it
    std::size_t identity_columns{};
    std::string narrow_partition{};  ///< the first one whose identity is not FULL, of `narrow_partitions`; "" where there is none
    std::size_t narrow_partitions{};
  };
  std::vector<watched> watched_tables;
};

/** Looks at the database with plain queries over `db` and one attempt at a replication session over `direct`. Changes nothing. */
asio::awaitable<result<database_facts>> probe(std::string db, std::string direct, steady::duration deadline);

/**
 * The part of it that choose_tier needs, over an open session of `db`, for a program that starts: a few short statements
 * and the attempt, which may take up to `deadline` each. The other facts keep their defaults.
 */
asio::awaitable<result<database_facts>> probe_transport(connection& session, std::string db, std::string direct, steady::duration deadline);

/** How messages travel on a database. */
struct tier {
  enum class kind { wal, notify } transport{kind::wal};
  std::string reason;  ///< why not the WAL; "" when it is
  std::string fix;     ///< SQL or a command; "" when nothing is to be done
  /** False where the trouble may pass by itself (no answer, every slot or WAL sender in use): `transport` is what the database used so far. */
  bool certain{true};
};
std::string_view name(tier::kind transport);

struct finding {
  enum class severity { ok, note, warning, problem } level{severity::ok};
  std::string subject;  ///< a stable name: "wal_level"
  std::string what;  ///< what is so
  std::string why;  ///< why it matters; "" for ok
  std::string fix;  ///< the exact SQL or command; "" when there is none
};
std::string_view name(finding::severity level);

/** I/O-free. */
tier choose_tier(const database_facts& facts);
/** Everything doctor prints, in its order; `wanted_schema` is this program's schema version. I/O-free. */
std::vector<finding> examine(const database_facts& facts, int wanted_schema);

}  // namespace postbus::postgres
