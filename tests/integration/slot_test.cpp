// A permanent slot: what is committed while nobody reads is there afterwards, at the positions it had or would have had; and
// what happens when it is lost, poisoned, or read by somebody else. Large transactions, streamed and kept aside.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include <atomic>
#include <thread>

#include "base/metrics.hpp"
#include "change_rig.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using testing_support::change_rig;
using testing_support::cluster;
using testing_support::database;
using testing_support::permanent;
using testing_support::session;

std::string text_of(const bus::event_ref& e) { return std::string{e->payload}; }

/** Payloads, or the kind of what is no message, of all that the hub can give from `after` on. */
std::vector<std::string> told(const change_rig& rig, std::string_view channel, const bus::position& after) {
  std::vector<std::string> all;
  for (const auto& e : rig.hub.history(channel, after).events)
    all.push_back(e->kind == bus::kind::gap || e->kind == bus::kind::reset ? std::string{to_text(e->kind)} : text_of(e));
  return all;
}

std::vector<bus::position> places(const change_rig& rig, std::string_view channel, const bus::position& after) {
  std::vector<bus::position> all;
  for (const auto& e : rig.hub.history(channel, after).events) all.push_back(e->at);
  return all;
}

TEST(slot, a_new_reader_gives_what_the_last_one_gave_and_what_came_meanwhile) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  bus::position first, second;
  std::vector<bus::position> before;
  {
    change_rig rig{db, permanent};
    rig.start();
    EXPECT_TRUE(rig.reader->status().permanent);
    db.psql("select postbus.post('a', 'one'); insert into t values (1, 'x'); select postbus.post('a', 'two')");
    db.psql("begin; insert into t values (2, 'y'); select postbus.post('a', 'three'); commit");
    rig.payloads("a", 3);
    const auto events = rig.events("a");
    first = events[0]->at;
    second = events[1]->at;
    before = places(rig, "a", first);
    EXPECT_EQ(events[2]->at.index, 1u) << "the row is the first change";
  }
  db.psql("begin; select postbus.post('a', 'rolled back'); rollback");
  db.psql("select postbus.unwatch('t'); select postbus.post('a', 'while nobody read')");
  change_rig rig{db, permanent};
  rig.start();
  db.psql("select postbus.post('a', 'after')");
  rig.wait([&] { return told(rig, "a", first).size() >= 4; });
  EXPECT_THAT(told(rig, "a", first), ElementsAre("two", "three", "while nobody read", "after"));
  EXPECT_THAT(told(rig, "a", second), ElementsAre("three", "while nobody read", "after"));
  const auto again = places(rig, "a", first);
  EXPECT_EQ(again[0], before[0]);
  EXPECT_EQ(again[1], before[1]) << "although the table is not watched any more";
  EXPECT_THAT(told(rig, "a", {first.epoch, first.lsn - 4096, 0}), testing::Contains("one"));
}

TEST(slot, before_the_window_is_a_reset) {
  database db;
  bus::position early;
  {
    change_rig rig{db, [](reader_options& o) {
                     permanent(o);
                     o.window = {.age = 1s, .bytes = 50'000};
                   }};
    rig.start();
    db.psql("select postbus.post('a', 'one')");
    rig.payloads("a", 1);
    early = rig.events("a")[0]->at;
    db.psql(
        "select postbus.post('a', repeat('x', 100000)); select postbus.post('a', repeat('y', 100000)); select postbus.post('a', 'three')");
    rig.wait([&] {
      return db.psql(fmt::format("select confirmed_flush_lsn > '0/0'::pg_lsn + {} from pg_replication_slots where slot_name = '{}'",
                                 early.lsn, rig.reader->status().slot)) == "t";
    });
  }
  change_rig rig{db, permanent};
  rig.start();
  db.psql("select postbus.post('a', 'after')");
  const auto all = [&] { return told(rig, "a", early); };
  rig.wait([&] { return !all().empty() && all().back() == "after"; });
  EXPECT_EQ(all().front(), "reset");
}

TEST(slot, a_broken_session_costs_nothing) {
  database db;
  change_rig rig{db, permanent};
  rig.start();
  db.psql("select postbus.post('a', 'before')");
  rig.payloads("a", 1);
  const auto begun = rig.reader->status().reconnects;
  db.psql(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus reader' and datname = current_database(); "
      "select postbus.post('a', 'while it was broken')");
  rig.wait([&] { return rig.reader->status().reconnects > begun && rig.reader->status().ready(); });
  db.psql("select postbus.post('a', 'after')");
  EXPECT_THAT(rig.payloads("a", 3), ElementsAre("before", "while it was broken", "after"));
}

TEST(slot, a_broken_session_does_not_cost_the_window) {
  database db;
  bus::position first;
  {
    change_rig rig{db, [](reader_options& o) {
                     permanent(o);
                     o.pulse.feedback_every = 20ms;
                   }};
    rig.start();
    db.psql("select postbus.post('a', 'one'); select postbus.post('a', 'two')");
    rig.payloads("a", 2);
    first = rig.events("a")[0]->at;
    const auto begun = rig.reader->status().reconnects;
    db.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus reader' and datname = "
        "current_database()");
    rig.wait([&] { return rig.reader->status().reconnects > begun && rig.reader->status().ready(); });
    rig.wait([&] {
      return db.psql(
                 "select count(*) from pg_stat_replication r join pg_stat_activity a using (pid) where a.datname = current_database() and "
                 "r.flush_lsn is not null") == "1";
    });
  }
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_THAT(told(rig, "a", first), ElementsAre("two"));
}

TEST(slot, survives_the_death_of_the_server) {
  cluster own;
  database db{own};
  change_rig rig{db, permanent};
  rig.start();
  const auto start = rig.hub.head();
  db.psql("select postbus.post('a', 'before')");
  rig.payloads("a", 1);
  own.kill_postmaster();
  rig.wait([&] { return rig.reader->status().reconnects > 0 && rig.reader->status().ready(); });
  db.psql("select postbus.post('a', 'after')");
  rig.wait([&] { return told(rig, "a", start).size() >= 2; });
  EXPECT_THAT(told(rig, "a", start), ElementsAre("before", "after"));
}

/** Drops the slot under its reader, until that has seen it. */
void lose_slot(change_rig& rig, const database& db) {
  const auto before = rig.hub.head().epoch;
  // The reader comes back within a moment: the slot may be in use again before it is dropped.
  for (const auto limit = steady::now() + 30s; rig.hub.head().epoch == before && steady::now() < limit;) {
    db.refused(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where database = current_database() and active; "
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database() and not active");
    rig.loop.restart();
    rig.loop.run_for(300ms);
  }
}

TEST(slot, one_that_was_dropped_is_a_reset_in_a_new_epoch) {
  database db;
  bus::position before;
  {
    change_rig rig{db, permanent};
    rig.start();
    db.psql("select postbus.post('a', 'before')");
    rig.payloads("a", 1);
    before = rig.events("a")[0]->at;
  }
  db.psql(
      "select postbus.post('a', 'lost'); select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = "
      "current_database()");
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_NE(rig.hub.head().epoch, before.epoch);
  EXPECT_THAT(told(rig, "a", before), ElementsAre("reset"));
  // The same under a running reader.
  const auto running = rig.hub.head();
  lose_slot(rig, db);
  EXPECT_THAT(told(rig, "a", running), ElementsAre("reset"));
}

TEST(slot, one_that_was_dropped_while_commits_wait_for_their_standby_is_a_reset_all_the_same) {
  testing_support::cluster own;
  database db{own};
  change_rig rig{db, permanent};
  rig.start();
  const auto before = rig.hub.head();
  const testing_support::absent_standby waited_for{own};
  lose_slot(rig, db);
  EXPECT_THAT(told(rig, "a", before), ElementsAre("reset"));
  rig.wait([&] { return rig.reader->status().ready(); });
}

TEST(slot, a_publication_that_was_dropped_poisons_it_and_another_is_made) {
  database db;
  change_rig rig{db, permanent};
  rig.start();
  const auto before = rig.hub.head();
  db.psql("create table t(id int primary key); select postbus.watch('t'); insert into t values (1)");
  rig.payloads("table:public.t", 1);
  db.psql("drop publication postbus; insert into t values (2)");
  db.psql("select postbus.post('a', 'x')");
  rig.wait([&] { return rig.hub.head().epoch != before.epoch && rig.reader->status().ready(); });
  EXPECT_NE(rig.hub.head().epoch, before.epoch);
  EXPECT_THAT(told(rig, "a", before), ElementsAre("reset"));
  db.psql("insert into t values (3)");
  const auto anew = rig.hub.head();
  rig.wait([&] { return !told(rig, "table:public.t", {anew.epoch, 1, 0}).empty(); });
}

/** Whether the reader of the permanent slot has told the server that it is that far. */
bool fed_back(const database& db, const bus::position& at) {
  return db.psql(fmt::format("select coalesce(bool_or(r.write_lsn >= '0/0'::pg_lsn + {}), false) from pg_stat_replication r join "
                             "pg_replication_slots s on s.active_pid = r.pid where s.database = current_database() and not s.temporary",
                             at.lsn)) == "t";
}

/** Runs both until `holds()`. */
void wait_both(change_rig& one, change_rig& other, const std::function<bool()>& holds) {
  one.wait([&] {
    other.loop.restart();
    other.loop.poll();
    return holds();
  });
}

void impatient(reader_options& o) {
  permanent(o);
  o.slot.patience = 100ms;
  o.look_after = 50ms;
}

TEST(slot, a_second_reader_reads_a_copy_and_takes_over_what_the_first_one_leaves) {
  database db;
  change_rig first{db, impatient};
  first.start();
  const auto start = first.hub.head();
  db.psql("select postbus.post('a', 'before it came')");
  first.payloads("a", 1);
  auto second = std::make_unique<change_rig>(db, impatient);
  second->start();
  EXPECT_FALSE(second->reader->status().permanent);
  EXPECT_TRUE(first.reader->status().permanent);
  db.psql("select postbus.post('a', 'both read')");
  wait_both(first, *second, [&] { return told(first, "a", start).size() == 2 && told(*second, "a", start).size() == 2; });
  EXPECT_EQ(places(*second, "a", start), places(first, "a", start));

  session open{db.url()};
  open.psql("begin; select postbus.post('a', 'committed by then')");
  first.stop();
  db.psql("select postbus.post('a', 'nobody holds it')");
  open.psql("commit");
  second->wait([&] { return second->reader->status().permanent && second->reader->status().ready(); });
  db.psql("select postbus.post('a', 'taken over')");
  second->wait([&] { return told(*second, "a", start).size() >= 5; });
  const std::vector<std::string> all{"before it came", "both read", "nobody holds it", "committed by then", "taken over"};
  EXPECT_EQ(told(*second, "a", start), all) << "nothing missing, nothing twice, no gap";
  EXPECT_EQ(second->reader->status().reconnects, 0u);

  // Nor is the window given up by it: another one still finds in the slot what the first one had read.
  second->wait([&] { return fed_back(db, places(*second, "a", start).back()); });
  const auto places_before = places(*second, "a", start);
  second.reset();
  change_rig third{db, permanent};
  third.start();
  EXPECT_EQ(told(third, "a", start), all);
  EXPECT_EQ(places(third, "a", start), places_before);
}

TEST(slot, two_readers_are_in_one_epoch_whoever_draws_it) {
  database db;
  change_rig first{db, impatient}, second{db, impatient};
  first.start();
  second.start();
  const auto before = first.hub.head().epoch;
  const auto agree = [&](std::uint32_t drawn) {
    wait_both(first, second, [&] { return first.hub.head().epoch == drawn && second.hub.head().epoch == drawn; });
  };
  db.psql("select postbus.new_epoch()");
  const auto by_hand = static_cast<std::uint32_t>(std::stoull(db.psql("select epoch from postbus.meta")));
  EXPECT_NE(by_hand, before);
  agree(by_hand);
  EXPECT_EQ(db.psql(fmt::format("select postbus.new_epoch({})", before)), std::to_string(by_hand)) << "it was drawn already";
  wait_both(first, second, [&] { return first.reader->status().ready() && second.reader->status().ready(); });
  db.psql("select postbus.post('a', 'x')");
  const bus::position start{by_hand, 1, 0};
  const auto has_it = [&](const change_rig& rig) { return !told(rig, "a", start).empty() && told(rig, "a", start).back() == "x"; };
  wait_both(first, second, [&] { return has_it(first) && has_it(second); });
  EXPECT_EQ(places(first, "a", start).back(), places(second, "a", start).back());
}

TEST(slot, a_new_epoch_begins_where_it_was_drawn_whatever_the_slot_still_holds) {
  database db;
  change_rig first{db, impatient}, second{db, impatient};
  first.start();
  second.start();
  const auto in_both = [&](const std::string& payload) {
    db.psql(fmt::format("select postbus.post('a', '{}')", payload));
    const auto has_it = [&](const change_rig& rig) {
      const auto all = told(rig, "a", {rig.hub.head().epoch, 1, 0});
      return !all.empty() && all.back() == payload;
    };
    wait_both(first, second, [&] { return has_it(first) && has_it(second); });
  };
  in_both("before");
  db.psql("select postbus.new_epoch()");
  const auto drawn = static_cast<std::uint32_t>(std::stoull(db.psql("select epoch from postbus.meta")));
  const bus::position beginning{drawn, 1, 0};
  wait_both(first, second, [&] { return first.hub.head().epoch == drawn && second.hub.head().epoch == drawn; });
  in_both("after");
  // The place that is asked for lies before all that is known, and so it does for who starts later: he begins there too.
  EXPECT_THAT(told(first, "a", beginning), ElementsAre("reset", "after"));
  EXPECT_THAT(told(second, "a", beginning), ElementsAre("reset", "after"));
  first.stop();
  second.stop();
  change_rig third{db, permanent};
  third.start();
  EXPECT_THAT(told(third, "a", beginning), ElementsAre("reset", "after"));
  third.stop();
  // Nobody was there when it was drawn: what was committed before is not in it.
  db.psql("select postbus.post('a', 'while nobody read')");
  db.psql("select postbus.new_epoch()");
  db.psql("select postbus.post('a', 'in the new one')");
  change_rig fourth{db, permanent};
  fourth.start();
  EXPECT_NE(fourth.hub.head().epoch, drawn);
  EXPECT_THAT(told(fourth, "a", {fourth.hub.head().epoch, 1, 0}), ElementsAre("reset", "in the new one"));
}

TEST(slot, two_readers_miss_nothing_when_their_sessions_break) {
  cluster own;
  database db{own};
  change_rig first{db, impatient}, second{db, impatient};
  first.start();
  const auto start = first.hub.head();
  second.start();
  db.psql("select postbus.post('a', 'before')");
  wait_both(first, second, [&] { return told(first, "a", start).size() == 1 && told(second, "a", start).size() == 1; });
  // Whichever comes back first has the permanent slot.
  own.kill_postmaster();
  db.psql("select postbus.post('a', 'after')");
  wait_both(first, second, [&] { return told(first, "a", start).size() >= 2 && told(second, "a", start).size() >= 2; });
  EXPECT_THAT(told(first, "a", start), ElementsAre("before", "after"));
  EXPECT_THAT(told(second, "a", start), ElementsAre("before", "after"));
  EXPECT_NE(first.reader->status().permanent, second.reader->status().permanent);
}

TEST(slot, a_broken_session_leaves_the_window_as_it_was) {
  database db;
  bus::position start;
  {
    change_rig rig{db, impatient};
    rig.start();
    start = rig.hub.head();
    db.psql("select postbus.post('a', 'before')");
    rig.payloads("a", 1);
    db.psql("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()");
    rig.wait([&] { return rig.reader->status().reconnects > 0 && rig.reader->status().ready(); });
    db.psql("select postbus.post('a', 'after')");
    rig.payloads("a", 2);
    rig.wait([&] { return fed_back(db, rig.events("a").back()->at); });
  }
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_THAT(told(rig, "a", start), ElementsAre("before", "after"));
}

TEST(slot, tells_in_metrics_how_far_back_it_reaches) {
  database db;
  change_rig rig{db, impatient};
  rig.start();
  rig.wait([] { return metrics::value(metrics::gauge::resume_window_seconds) >= 1; });
  change_rig second{db, impatient};
  second.start();
  second.wait([] { return metrics::value(metrics::gauge::resume_window_seconds) == 0; });
}

/** The most that the lag has been while it lives. */
struct most_lag {
  std::int64_t seen{};
  std::atomic<bool> over{};
  std::thread looking{[this] {
    while (!over) seen = std::max(seen, metrics::value(metrics::gauge::lag_micros));
  }};
  std::int64_t end() {
    over = true;
    if (looking.joinable()) looking.join();
    return seen;
  }
  ~most_lag() { end(); }
};

TEST(slot, tells_in_metrics_how_far_behind_reading_is) {
  database db;
  {
    change_rig rig{db, permanent};
    rig.start();
  }
  const auto now = [&] { return std::stoll(db.psql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")); };
  const auto before = now();
  db.psql("do $$ begin for i in 1..3000 loop perform postbus.post('a', repeat('x', 2000)); commit; end loop; end $$");
  const auto took = now() - before;
  most_lag lag;
  change_rig rig{db, [](reader_options& o) {
                   permanent(o);
                   o.limits.publish_bytes = 20'000;
                 }};
  rig.start();
  rig.wait([] { return metrics::value(metrics::gauge::lag_micros) == 0; });
  EXPECT_GE(lag.end(), took / 2) << "the first of it was committed before all the others";
}

TEST(slot, automatic_is_temporary_where_the_server_bounds_nothing) {
  cluster own{{{"max_slot_wal_keep_size", "-1"}}};
  database db{own};
  change_rig rig{db, [](reader_options& o) { o.slot.wanted = slot_choice::automatic; }};
  rig.start();
  EXPECT_FALSE(rig.reader->status().permanent);
}

TEST(slot, one_that_the_server_invalidates_is_a_reset) {
  cluster own{{{"max_slot_wal_keep_size", "16MB"}, {"max_wal_size", "32MB"}, {"min_wal_size", "32MB"}}};
  database db{own};
  bus::position before;
  {
    change_rig rig{db, permanent};
    rig.start();
    db.psql("select postbus.post('a', 'before')");
    rig.payloads("a", 1);
    before = rig.events("a")[0]->at;
  }
  for (int i = 0; i < 20 && db.psql("select wal_status from pg_replication_slots where database = current_database()") != "lost"; ++i)
    db.psql(
        "create table filler as select repeat('x', 1000) from generate_series(1, 10000); drop table filler; select pg_switch_wal(); "
        "checkpoint");
  ASSERT_EQ(db.psql("select wal_status from pg_replication_slots where database = current_database()"), "lost");
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_THAT(told(rig, "a", before), ElementsAre("reset"));
  db.psql("select postbus.post('a', 'after')");
  rig.payloads("a", 1);
}

/** A transaction of `rows` rows and messages with savepoints, half of them rolled back. */
std::string large(int rows) {
  return fmt::format(
      "begin; insert into t select g, repeat('x', 500) from generate_series(1, {0}) g; select postbus.post('a', 'first'); "
      "savepoint one; insert into t select g, repeat('y', 500) from generate_series({0} + 1, 2 * {0}) g; select postbus.post('a', "
      "'undone'); rollback to one; "
      "insert into t select g, repeat('z', 500) from generate_series({0} + 1, 2 * {0}) g; select postbus.post('a', 'second'); update t set "
      "v = 'w' where id <= 10; commit",
      rows);
}

TEST(slot, a_large_transaction_comes_while_it_runs_and_has_the_positions_of_a_small_one) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  std::vector<bus::position> streamed, whole;
  std::vector<std::string> streamed_texts;
  bus::position start;
  {
    change_rig rig{db, [](reader_options& o) {
                     permanent(o);
                     o.decoding_kib = 64;  // the least there is
                     o.limits.publish_bytes = 100'000;
                     o.spill.memory = 200'000;
                   }};
    rig.start();
    start = rig.hub.head();
    db.psql(large(3000));
    db.psql("begin; insert into t select g, repeat('q', 500) from generate_series(10001, 12000) g; rollback");
    db.psql("select postbus.post('a', 'after')");
    rig.wait([&] { return told(rig, "a", start).size() >= 3; });
    EXPECT_THAT(told(rig, "a", start), ElementsAre("first", "second", "after")) << "what was rolled back to the savepoint is not there";
    streamed = places(rig, "table:public.t", start);
    streamed_texts = told(rig, "table:public.t", start);
    EXPECT_EQ(streamed.size(), 6010u);
    EXPECT_TRUE(std::ranges::is_sorted(streamed));
    EXPECT_EQ(
        db.psql(fmt::format("select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{}'", rig.reader->status().slot)),
        "t");
  }
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_EQ(places(rig, "table:public.t", start), streamed) << "read again, not streamed";
  EXPECT_EQ(told(rig, "table:public.t", start), streamed_texts);
}

TEST(slot, a_forged_word_of_a_new_publication_changes_nothing) {
  database db;
  change_rig rig{db, permanent};
  rig.start();
  const auto before = rig.hub.head();
  const auto slot = rig.reader->status().slot;
  db.psql(
      "select pg_logical_emit_message(true, 'postbus:publication', 'made anew'); select pg_logical_emit_message(false, "
      "'postbus:publication', "
      "'made anew')");
  db.psql("select postbus.post('a', 'x')");
  rig.wait([&] { return !told(rig, "a", before).empty(); });
  EXPECT_THAT(told(rig, "a", before), ElementsAre("x"));
  EXPECT_EQ(rig.reader->status().slot, slot);
  EXPECT_EQ(rig.reader->status().reconnects, 0u);
}

TEST(slot, a_publication_that_was_made_anew_while_nobody_read_is_a_reset) {
  database db;
  bus::position before;
  {
    change_rig rig{db, permanent};
    rig.start();
    before = rig.hub.head();
  }
  db.psql("drop publication postbus; select postbus.post('a', 'unread'); select postbus.repair_publication()");
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_NE(rig.hub.head().epoch, before.epoch);
  EXPECT_THAT(told(rig, "a", before), ElementsAre("reset"));
}

TEST(slot, plain_notifications_in_the_midst_of_a_large_transaction_come_behind_it) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  change_rig rig{db, [](reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                   o.limits.publish_bytes = 20'000;
                   o.spill.memory = 200'000;
                 }};
  rig.start();
  const auto start = rig.hub.head();
  db.psql("insert into t select g, repeat('x', 500) from generate_series(1, 6000) g");
  std::size_t notified = 0, midway = 0;
  rig.wait([&] {
    const auto known = places(rig, "table:public.t", start).size();
    if (known > 0 && known < 6000) ++midway;
    auto plain = std::make_shared<bus::batch>();
    plain->add("plain", bus::kind::message, bus::payload_form::text, std::to_string(notified++), {}, 0);
    rig.hub.publish(std::move(plain));
    return known == 6000;
  });
  ASSERT_GT(midway, 0u) << "it came in pieces, with notifications between them";
  rig.catch_up(db);
  EXPECT_EQ(told(rig, "plain", start).size(), notified);
  // Whoever resumes after any of them gets all rows that were published after it: none is passed over.
  const auto rows = rig.hub.history("table:public.t", start).events;
  for (const auto& n : rig.hub.history("plain", start).events) {
    const auto later = std::ranges::count_if(rows, [&](const auto& row) { return row->seq > n->seq; });
    EXPECT_EQ(static_cast<std::ptrdiff_t>(places(rig, "table:public.t", n->at).size()), later);
  }
}

std::uint64_t streamed_so_far(const database& db) {
  return std::stoull(
      db.psql("select coalesce(sum(stream_txns), 0) from pg_stat_replication_slots join pg_replication_slots s using (slot_name) where "
              "s.database = "
              "current_database()"));
}

/** One in doubt that does not come: it has `more` behind what was undone, and ends with `end`. */
void streams_again_after_one_in_doubt(const std::string& more, const char* end) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  change_rig rig{db, [](reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                   o.look_after = 50ms;
                 }};
  rig.start();
  const auto start = rig.hub.head();
  const auto insert = [](int from) {
    return fmt::format("insert into t select g, repeat('x', 500) from generate_series({}, {}) g; ", from, from + 999);
  };
  session writer{db.url()};
  writer.psql("begin; savepoint one; select postbus.post('a', 'undone'); " + insert(1) + "rollback to one; " + more);
  rig.wait([&] { return rig.reader->status().reconnects == 1 && rig.reader->status().ready(); });
  const auto before = streamed_so_far(db);
  db.psql(insert(10'000));
  rig.wait([&] { return places(rig, "table:public.t", start).size() == 1000; });
  EXPECT_EQ(streamed_so_far(db), before) << "the one in doubt is to come whole, and so is every other";
  writer.psql(end);
  int from = 20'000;
  rig.wait([&] {
    if (streamed_so_far(db) == before) db.psql(insert(from += 1'000));
    return streamed_so_far(db) > before;
  });
  rig.catch_up(db);
  EXPECT_EQ(places(rig, "table:public.t", start).size(), 1000u + static_cast<std::size_t>(from - 20'000));
  EXPECT_EQ(told(rig, "a", start).size(), 0u);
}

TEST(slot, large_transactions_are_streamed_again_after_one_in_doubt_was_rolled_back) {
  streams_again_after_one_in_doubt("insert into t select g, repeat('x', 500) from generate_series(1, 1000) g", "rollback");
}

/** The server does not send a transaction of which nothing is left. */
TEST(slot, large_transactions_are_streamed_again_after_one_in_doubt_committed_nothing) { streams_again_after_one_in_doubt("", "commit"); }

TEST(slot, one_in_doubt_that_was_rolled_back_long_ago_is_passed) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  const auto in_blocks = [](reader_options& o) {
    permanent(o);
    o.decoding_kib = 64;
    o.look_after = 20ms;
  };
  bus::position start;
  {
    change_rig rig{db, in_blocks};
    rig.start();
    start = rig.hub.head();
  }
  session writer{db.url()};
  writer.psql(
      "begin; savepoint one; select postbus.post('a', 'undone'); insert into t select g, repeat('x', 500) from generate_series(1, 1000) g; "
      "rollback to one; insert into t select g, repeat('x', 500) from generate_series(1, 1000) g");
  // The reader knows of the rollback before it has read up to it: all of this is behind the doubt and before its end.
  db.psql("do $$ begin for i in 1..5000 loop perform postbus.post('b', repeat('x', 2000)); commit; end loop; end $$");
  writer.psql("rollback");
  db.psql("select postbus.post('a', 'after')");
  change_rig rig{db, in_blocks};
  rig.start();
  EXPECT_THAT(told(rig, "a", start), ElementsAre("after"));
  EXPECT_LE(rig.reader->status().reconnects, 1u);
}

TEST(slot, large_transactions_that_were_replicated_here_are_read_like_others) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  change_rig rig{db, [](reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                 }};
  rig.start();
  const auto start = rig.hub.head();
  session replica{db.url()};
  replica.psql(
      "select pg_replication_origin_create('of ' || current_database()), pg_replication_origin_session_setup('of ' || current_database())");
  replica.psql("begin; insert into t select g, repeat('x', 500) from generate_series(1, 1000) g");
  replica.psql("select postbus.post('a', 'within'); commit");
  EXPECT_GT(streamed_so_far(db), 0u);
  db.psql("select postbus.post('a', 'after')");
  rig.wait([&] { return told(rig, "a", start).size() == 2; });
  EXPECT_THAT(told(rig, "a", start), ElementsAre("within", "after"));
  EXPECT_EQ(places(rig, "table:public.t", start).size(), 1000u);
  EXPECT_EQ(rig.reader->status().reconnects, 0u);
  replica.psql("select pg_replication_origin_session_reset(), pg_replication_origin_drop('of ' || current_database())");
}

TEST(slot, positions_are_the_same_whatever_others_rolled_back_or_is_watched_by_then) {
  database db;
  db.psql(
      "create table t(id int primary key, v text); create table left_out(id int primary key); select postbus.watch('t'), "
      "postbus.watch('left_out')");
  bus::position start;
  std::vector<bus::position> first;
  {
    change_rig rig{db, [](reader_options& o) {
                     permanent(o);
                     o.decoding_kib = 64;
                   }};
    rig.start();
    start = rig.hub.head();
    db.psql(
        "begin; insert into t select g, repeat('x', 500) from generate_series(1, 500) g; savepoint one; select "
        "pg_logical_emit_message(true, 'of somebody', 'undone'); insert into t select g, repeat('x', 500) from generate_series(501, 1000) "
        "g; "
        "rollback to one; insert into t values (1000, ''); commit");  // so much behind it that it is streamed before it is undone
    rig.wait([&] { return streamed_so_far(db) > 0; });  // PostgreSQL 14 counts a moment later
    db.psql("begin; truncate left_out, t; insert into t values (1, ''); commit");
    rig.wait([&] { return places(rig, "table:public.t", start).size() == 503; });
    EXPECT_EQ(rig.reader->status().reconnects, 0u);
    first = places(rig, "table:public.t", start);
    EXPECT_EQ(std::ranges::adjacent_find(first, std::ranges::greater_equal{}), first.end()) << "each has one of its own";
  }
  db.psql("select postbus.unwatch('left_out')");
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_EQ(places(rig, "table:public.t", start), first);
}

/** Transactions are streamed early, and at most 400 kB of them are kept. */
void little_room(reader_options& o) {
  permanent(o);
  o.decoding_kib = 64;
  o.spill.memory = 100'000;
  o.spill.disk = 400'000;
}

TEST(slot, a_transaction_beyond_the_spill_is_told_as_a_gap) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t')");
  change_rig rig{db, little_room};
  rig.start();
  const auto start = rig.hub.head();
  db.psql(large(3000));
  db.psql("select postbus.post('a', 'after')");
  rig.wait([&] { return told(rig, "a", start).size() >= 2; });
  EXPECT_THAT(told(rig, "a", start), ElementsAre("gap", "after"));
}

TEST(slot, tables_that_were_first_told_of_in_such_a_transaction_go_on) {
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t'); select postbus.create_stream('s')");
  change_rig rig{db, little_room};
  rig.start();
  const auto start = rig.hub.head();
  db.psql("begin; insert into t select g, repeat('q', 500) from generate_series(1, 3000) g; select postbus.post('s', 'lost'); commit");
  db.psql("insert into t values (10001, 'after'); select postbus.post('s', 'after')");
  rig.wait([&] { return told(rig, "s", start).size() >= 2 && !places(rig, "table:public.t", start).empty(); });
  EXPECT_THAT(told(rig, "s", start), ElementsAre("gap", "after"));
  EXPECT_THAT(told(rig, "table:public.t", start), ElementsAre("gap", testing::HasSubstr("10001")));
}

TEST(slot, one_that_costs_too_much_is_given_up) {
  database db;
  change_rig rig{db, [](reader_options& o) {
                   permanent(o);
                   o.guard.xmin_most = 0;
                 }};
  session idle{db.url()};
  rig.start();
  const auto before = rig.hub.head();
  idle.psql("begin; create temp table keeps(i int)");
  // A transaction id after the oldest catalog rows that the slot keeps makes their age 1.
  db.psql("select pg_current_xact_id(); create table more(i int)");
  idle.psql("commit");
  rig.wait([&] { return rig.hub.head().epoch != before.epoch; });
  EXPECT_THAT(told(rig, "a", before), testing::Contains("reset"));
}

}  // namespace
}  // namespace postbus::changes
