// The probe on real databases: sound, without logical WAL, for a role without rights, behind a pooler, with obstacles.
#include "postgres/probe.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "postgres/migrations.hpp"
#include "postgres/replication_stream.hpp"
#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/pooler.hpp"

namespace postbus {
namespace {

using namespace std::chrono_literals;
using postgres::finding;
using postgres::tier;
using testing_support::cluster;
using testing_support::database;
using testing_support::run;
using testing_support::session;

postgres::database_facts look(const std::string& db, const std::string& direct) {
  auto facts = run(postgres::probe(db, direct, 10s));
  if (!facts) throw std::runtime_error{facts.error().text + facts.error().detail};
  return *facts;
}

std::string subjects(const postgres::database_facts& facts) {
  std::string out;
  for (const auto& one : postgres::examine(facts, postgres::schema_version()))
    if (one.level != finding::severity::ok) out += one.subject + " ";
  return out;
}

TEST(probe, finds_a_sound_database_sound) {
  const database db;
  const auto facts = look(db.url(), db.url());
  EXPECT_EQ(facts.database, db.name());
  EXPECT_EQ(facts.server_version / 10000, db.on().server().major());
  EXPECT_FALSE(facts.pooled);
  EXPECT_EQ(facts.max_slot_wal_keep_bytes, std::int64_t{1} << 30);
  EXPECT_EQ(facts.schema_version, postgres::schema_version());
  EXPECT_EQ(postgres::choose_tier(facts).transport, tier::kind::wal);
  EXPECT_EQ(subjects(facts), "forgery ");
  db.psql(postgres::revoke_emit_sql());
  EXPECT_EQ(subjects(look(db.url(), db.url())), "");
}

TEST(probe, sees_a_database_without_the_schema) {
  const database db{database::with::nothing};
  EXPECT_EQ(subjects(look(db.url(), db.url())), "schema ");
}

TEST(probe, falls_back_to_notify_without_logical_wal) {
  cluster plain{{{"wal_level", "replica"}}};
  const database db{plain};
  const auto facts = look(db.url(), db.url());
  const auto chosen = postgres::choose_tier(facts);
  EXPECT_EQ(chosen.transport, tier::kind::notify);
  EXPECT_THAT(chosen.fix, testing::HasSubstr("alter system set wal_level = 'logical'"));
  // The fix is the fix.
  plain.psql("alter system set wal_level = 'logical'");
  plain.restart();
  EXPECT_EQ(postgres::choose_tier(look(db.url(), db.url())).transport, tier::kind::wal);
}

TEST(probe, falls_back_to_notify_for_a_role_that_may_not_replicate) {
  const database db;
  db.psql("create role probe_plain login password 'x' in role postbus_admin");
  const auto as = db.url_as("probe_plain", "x");
  auto facts = look(as, as);
  EXPECT_EQ(facts.replication, postgres::database_facts::replication_answer::refused);
  EXPECT_TRUE(facts.may_administer);
  EXPECT_EQ(postgres::choose_tier(facts).transport, tier::kind::notify);
  EXPECT_THAT(postgres::choose_tier(facts).fix, testing::HasSubstr("alter role \"probe_plain\" replication"));
  db.psql("alter role probe_plain replication");
  EXPECT_EQ(postgres::choose_tier(look(as, as)).transport, tier::kind::wal);
  db.psql("revoke postbus_admin from probe_plain; grant postbus_poster to probe_plain");
  EXPECT_THAT(subjects(look(as, as)), testing::HasSubstr("rights"));
  db.psql("revoke postbus_poster from probe_plain");
  EXPECT_THAT(subjects(look(as, as)), testing::HasSubstr("schema"));
  db.psql("drop owned by probe_plain; drop role probe_plain");
}

TEST(probe, names_the_setting_where_every_wal_sender_or_slot_is_in_use) {
  cluster scarce{{{"max_wal_senders", "1"}, {"max_replication_slots", "1"}}};
  const database db{scarce};
  EXPECT_EQ(postgres::choose_tier(look(db.url(), db.url())).transport, tier::kind::wal);
  db.psql("select from pg_create_physical_replication_slot('theirs')");
  auto chosen = postgres::choose_tier(look(db.url(), db.url()));
  EXPECT_FALSE(chosen.certain);
  EXPECT_EQ(chosen.reason, "all 1 replication slots are in use");
  EXPECT_THAT(chosen.fix, testing::HasSubstr("max_replication_slots = 11"));
  db.psql("select pg_drop_replication_slot('theirs')");
  boost::asio::io_context loop;
  std::optional<postgres::replication_stream> holder;
  testing_support::run(loop, [](const std::string url, auto& into) -> boost::asio::awaitable<void> {
    auto opened = co_await postgres::replication_stream::open({.conninfo = url});
    if (opened) into.emplace(std::move(*opened));
  }(db.url(), holder));
  ASSERT_TRUE(holder);
  chosen = postgres::choose_tier(look(db.url(), db.url()));
  EXPECT_FALSE(chosen.certain);
  EXPECT_EQ(chosen.reason, "all 1 WAL senders are in use");
  EXPECT_THAT(chosen.fix, testing::HasSubstr("max_wal_senders = 11"));
}

TEST(probe, sees_what_was_broken_since) {
  const database db;
  db.psql(
      "create table t(id int primary key); create table u(id int primary key); create table stray(id int primary key); select "
      "postbus.watch('t'), postbus.watch('u')");
  db.psql("alter table t drop constraint t_pkey; alter publication postbus drop table u; alter publication postbus add table stray");
  const auto facts = look(db.url(), db.url());
  ASSERT_EQ(facts.watched_tables.size(), 2U);
  EXPECT_THAT(facts.watched_tables[0].fault, testing::HasSubstr("no primary key"));
  EXPECT_THAT(facts.watched_tables[0].fix, testing::HasSubstr("alter table public.t add primary key"));
  EXPECT_FALSE(facts.watched_tables[1].published);
  EXPECT_THAT(facts.published_unwatched, testing::ElementsAre("public.stray"));
  db.psql("alter publication postbus set (publish = 'insert')");
  EXPECT_THAT(subjects(look(db.url(), db.url())), testing::HasSubstr("publication"));
  db.psql("drop publication postbus");
  EXPECT_FALSE(look(db.url(), db.url()).publication_exists);
}

TEST(probe, sees_obstacles) {
  cluster here{{{"max_prepared_transactions", "2"}}};
  const database db{here};
  db.psql("select from pg_create_logical_replication_slot('postbus_forgotten', 'pgoutput')");
  db.psql("create table t(id int)");
  db.psql("begin; insert into t values (1); prepare transaction 'half'");
  const auto facts = look(db.url(), db.url());
  ASSERT_EQ(facts.logical_slots.size(), 1U);
  EXPECT_FALSE(facts.logical_slots[0].active);
  EXPECT_EQ(facts.used_replication_slots, 1);
  ASSERT_EQ(facts.prepared_transactions.size(), 1U);
  EXPECT_EQ(facts.prepared_transactions[0].id, "half");
  EXPECT_THAT(subjects(facts), testing::HasSubstr("orphan_slot"));
  db.psql("rollback prepared 'half'");
  db.psql("select pg_drop_replication_slot('postbus_forgotten')");
}

TEST(probe, recognises_a_pooler) {
  ASSERT_TRUE(testing_support::pooler::is_there()) << "pgbouncer is not installed: ./dev test installs it";
  const database db;
  const testing_support::pooler between{db};
  const auto& pooled = between.url();
  const auto both = look(pooled, pooled);
  EXPECT_TRUE(both.pooled && both.direct_pooled);
  EXPECT_THAT(subjects(both), testing::HasSubstr("replication"));
  const auto split = look(pooled, db.url());
  EXPECT_TRUE(split.pooled);
  EXPECT_FALSE(split.direct_pooled);
  EXPECT_EQ(postgres::choose_tier(split).transport, tier::kind::wal);
  EXPECT_THAT(subjects(split), testing::HasSubstr("pooler"));
}

TEST(probe, says_so_when_the_database_cannot_be_reached) {
  const auto facts = run(postgres::probe("postgresql://127.0.0.1:1/x", "postgresql://127.0.0.1:1/x", 5s));
  ASSERT_FALSE(facts);
  EXPECT_EQ(facts.error().code, errc::unavailable);
}

}  // namespace
}  // namespace postbus
