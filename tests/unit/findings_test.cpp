// Facts to findings and tier, without a database: each fault gives its finding, with a fix, and a sound database gives none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "postgres/probe.hpp"

namespace postbus::postgres {
namespace {

using severity = finding::severity;
using answer = database_facts::replication_answer;

database_facts sound() {
  database_facts f;
  f.server_version = 150020;
  f.version_text = "15.20";
  f.database = "shop";
  f.role = "app";
  f.replication_attribute = true;
  f.max_slot_wal_keep_bytes = std::int64_t{1} << 30;
  f.schema_version = 3;
  f.notify_queue_usage = 0.0;
  return f;
}

TEST(findings, say_nothing_bad_about_a_sound_database) {
  for (const auto& one : examine(sound(), 3)) EXPECT_EQ(one.level, severity::ok) << one.subject << ": " << one.what;
  const auto chosen = choose_tier(sound());
  EXPECT_EQ(chosen.transport, tier::kind::wal);
  EXPECT_TRUE(chosen.certain);
  EXPECT_EQ(chosen.fix, "");
}

struct fault_case {
  const char* subject;
  severity level;
  const char* fix;  ///< a part of it
  std::function<void(database_facts&)> spoil;
};

TEST(findings, name_the_fix_of_each_fault) {
  const fault_case cases[] = {
      {"version", severity::problem, "upgrade", [](auto& f) { f.server_version = 130020; }},
      {"recovery", severity::problem, "target_session_attrs=read-write", [](auto& f) { f.in_recovery = true; }},
      {"encoding", severity::problem, "encoding 'UTF8'", [](auto& f) { f.encoding = "LATIN1"; }},
      {"wal_level", severity::warning, "alter system set wal_level = 'logical'", [](auto& f) { f.wal_level = "replica"; }},
      {"replication", severity::warning, "alter role \"app\" replication",
       [](auto& f) { f.replication = answer::refused, f.replication_attribute = false; }},
      {"replication", severity::warning, "host shop app ADDRESS", [](auto& f) { f.replication = answer::refused; }},
      {"replication", severity::problem, "--db-direct", [](auto& f) { f.replication = answer::refused, f.direct_pooled = true; }},
      {"replication", severity::problem, "try again", [](auto& f) { f.replication = answer::unreachable; }},
      {"wal_senders", severity::problem, "max_wal_senders = 20",
       [](auto& f) { f.replication = answer::unreachable, f.replication_error = "[53300] … exceeds max_wal_senders (currently 10)"; }},
      {"wal_senders", severity::warning, "max_wal_senders = 10", [](auto& f) { f.max_wal_senders = 0; }},
      {"wal_senders", severity::note, "", [](auto& f) { f.used_wal_senders = 10, f.gateway_reads = true; }},
      {"slots", severity::warning, "max_replication_slots = 10", [](auto& f) { f.max_replication_slots = 0; }},
      {"slots", severity::note, "", [](auto& f) { f.used_replication_slots = 10, f.gateway_reads = true; }},
      {"pooler", severity::problem, "--db-direct", [](auto& f) { f.pooled = f.direct_pooled = true; }},
      {"pooler", severity::note, "", [](auto& f) { f.pooled = true; }},
      {"slots", severity::problem, "max_replication_slots = 20", [](auto& f) { f.used_replication_slots = 10; }},
      {"wal_senders", severity::problem, "max_wal_senders = 20", [](auto& f) { f.used_wal_senders = 10; }},
      {"slot_wal", severity::warning, "max_slot_wal_keep_size = '4GB'", [](auto& f) { f.max_slot_wal_keep_bytes = -1; }},
      {"synchronous_commit", severity::note, "", [](auto& f) { f.synchronous_commit = "off"; }},
      {"lock_table", severity::warning, "max_locks_per_transaction = 64", [](auto& f) { f.max_locks_per_transaction = 10; }},
      {"notify_queue", severity::warning, "idle in transaction", [](auto& f) { f.notify_queue_usage = 0.6; }},
      {"orphan_slot", severity::warning, "pg_drop_replication_slot('postbus_1_a')",
       [](auto& f) { f.logical_slots.push_back({.name = "postbus_1_a"}); }},
      {"orphan_slot", severity::warning, "does not need it",
       [](auto& f) { f.logical_slots.push_back({.name = "theirs", .retained_bytes = std::int64_t{2} << 30}); }},
      {"prepared", severity::warning, "rollback prepared 'it''s'",
       [](auto& f) { f.prepared_transactions.push_back({.id = "it's", .age_seconds = 90}); }},
      {"open_transaction", severity::warning, "pg_terminate_backend(42)",
       [](auto& f) { f.open_writers.push_back({.pid = 42, .age_seconds = 900, .application = "psql", .idle = true}); }},
      {"schema", severity::problem, "postbus setup", [](auto& f) { f.schema_version = 0; }},
      {"schema", severity::problem, "postbus setup", [](auto& f) { f.schema_version = 2; }},
      {"schema", severity::problem, "newer postbus", [](auto& f) { f.schema_version = 4; }},
      {"rights", severity::warning, "grant postbus_admin to \"app\"", [](auto& f) { f.may_administer = false; }},
      {"search_path", severity::warning, "set search_path = public", [](auto& f) { f.first_schema = "postbus"; }},
      {"publication", severity::problem, "repair_publication", [](auto& f) { f.publication_exists = f.publication_intact = false; }},
      {"publication", severity::problem, "drop publication postbus", [](auto& f) { f.publication_all_tables = true; }},
      {"publication", severity::problem, "repair_publication", [](auto& f) { f.publication_intact = false; }},
      {"publication", severity::warning, "drop table t", [](auto& f) { f.published_unwatched.push_back("t"); }},
      {"watched", severity::problem, "alter table t add primary key;",
       [](auto& f) { f.watched_tables.push_back({.table = "t", .fault = "no key", .fix = "alter table t add primary key"}); }},
      {"filters", severity::note, "create unique index postbus_identity_2_t on t (id, COLUMN);",
       [](auto& f) {
         f.watched_tables.push_back({.table = "t", .fault = "", .fix = "", .identity = "id", .bare = "t", .identity_columns = 1});
       }},
      {"filters", severity::note, "alter table p1 replica identity full;  -- and the same for 2 more",
       [](database_facts& f) {
         f.watched_tables.push_back(
             {.table = "t", .fault = "", .fix = "", .identity = "id", .bare = "t", .narrow_partition = "p1", .narrow_partitions = 3});
       }},
      {"watched", severity::problem, "repair_publication",
       [](auto& f) { f.watched_tables.push_back({.table = "t", .fault = "", .fix = "", .published = false}); }},
      {"forgery", severity::note, "--revoke-emit", [](auto& f) { f.anyone_may_emit = true; }},
  };
  for (const auto& c : cases) {
    auto facts = sound();
    c.spoil(facts);
    const auto found = examine(facts, 3);
    const auto fits = [&](const finding& one) {
      return one.subject == c.subject && one.level == c.level && one.fix.find(c.fix) != std::string::npos;
    };
    EXPECT_TRUE(std::ranges::any_of(found, fits)) << c.subject << " / " << c.fix;
    for (const auto& one : found) {
      if (one.level == severity::ok) continue;
      EXPECT_FALSE(one.what.empty() || one.why.empty()) << one.subject;
      if (one.level >= severity::warning) EXPECT_FALSE(one.fix.empty()) << one.subject;
    }
  }
}

TEST(findings, leave_slots_in_use_alone) {
  auto facts = sound();
  facts.logical_slots = {{.name = "postbus_1_a", .active = true, .temporary = true, .retained_bytes = std::int64_t{5} << 30},
                         {.name = "theirs", .retained_bytes = 1000}};
  for (const auto& one : examine(facts, 3)) EXPECT_NE(one.subject, "orphan_slot") << one.what;
}

TEST(tier, is_notify_where_the_wal_cannot_be_read_and_says_why) {
  auto facts = sound();
  facts.wal_level = "replica";
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::notify);
  EXPECT_THAT(choose_tier(facts).reason, testing::HasSubstr("wal_level is replica"));
  EXPECT_THAT(choose_tier(facts).fix, testing::HasSubstr("alter system set wal_level"));
  facts = sound();
  facts.replication = answer::refused;
  facts.replication_attribute = false;
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::notify);
  EXPECT_THAT(choose_tier(facts).fix, testing::HasSubstr("alter role \"app\" replication"));
}

TEST(tier, is_notify_where_the_server_is_set_to_have_no_slot_or_sender) {
  auto facts = sound();
  facts.max_replication_slots = 0;
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::notify);
  EXPECT_TRUE(choose_tier(facts).certain);
  EXPECT_EQ(choose_tier(facts).reason, "max_replication_slots is 0");
  facts = sound();
  facts.max_wal_senders = 0;
  facts.replication = answer::unreachable;
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::notify);
  EXPECT_TRUE(choose_tier(facts).certain);
  EXPECT_THAT(choose_tier(facts).fix, testing::HasSubstr("max_wal_senders = 10"));
}

TEST(tier, is_in_doubt_while_every_slot_or_sender_is_in_use) {
  const std::function<void(database_facts&)> faults[] = {
      [](auto& f) { f.used_replication_slots = 10; },
      [](auto& f) { f.used_wal_senders = 10, f.replication = answer::unreachable; },
      [](auto& f) { f.replication = answer::unreachable; },
  };
  for (const auto& spoil : faults)
    for (const auto* const so_far : {"wal", "notify"}) {
      auto facts = sound();
      facts.transport = so_far;
      spoil(facts);
      const auto chosen = choose_tier(facts);
      EXPECT_FALSE(chosen.certain);
      EXPECT_EQ(name(chosen.transport), so_far);
      EXPECT_FALSE(chosen.reason.empty() || chosen.fix.empty());
      // Where a gateway reads already, what it uses itself is not missing.
      facts.gateway_reads = true;
      EXPECT_EQ(choose_tier(facts).transport, tier::kind::wal);
      EXPECT_EQ(choose_tier(facts).reason, "");
      for (const auto& one : examine(facts, 3)) EXPECT_LT(one.level, severity::problem) << one.subject;
    }
}

TEST(tier, stays_what_it_was_while_the_answer_is_not_known) {
  auto facts = sound();
  facts.replication = answer::unreachable;
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::wal);
  EXPECT_FALSE(choose_tier(facts).certain);
  facts.transport = "notify";
  EXPECT_EQ(choose_tier(facts).transport, tier::kind::notify);
  EXPECT_FALSE(choose_tier(facts).certain);
}

}  // namespace
}  // namespace postbus::postgres
