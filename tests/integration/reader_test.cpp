// From commit to hub: order, positions, what is not delivered, and healing.
#include "changes/reader.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "base/metrics.hpp"
#include "bus/shard.hpp"
#include "change_rig.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::StartsWith;
using testing_support::change_rig;
using testing_support::database;
using testing_support::session;

std::string text_of(const bus::event_ref& e) { return std::string{e->payload}; }

TEST(reader, delivers_what_is_committed_in_commit_order_and_nothing_else) {
  database db;
  change_rig rig{db};
  rig.start();
  session one{db.url()}, two{db.url()};
  one.psql("begin; select postbus.post('a', 'first to begin, last to commit')");
  two.psql("begin; select postbus.post('a', 'lost'); rollback");
  two.psql(
      "begin; select postbus.post('a', 'kept'); savepoint s; select postbus.post('a', 'undone'); rollback to s; "
      "select postbus.post('a', '{\"x\": 1}'::jsonb); commit");
  one.psql("commit");
  const auto got = rig.payloads("a", 3);
  EXPECT_THAT(got, ElementsAre("kept", "{\"x\": 1}", "first to begin, last to commit"));
  const auto events = rig.events("a");
  EXPECT_EQ(events[0]->at.lsn, events[1]->at.lsn);
  EXPECT_EQ(events[0]->at.index, 0u);
  EXPECT_EQ(events[1]->at.index, 1u);
  EXPECT_EQ(events[1]->form, bus::payload_form::json);
  EXPECT_LT(events[1]->at, events[2]->at);
  EXPECT_EQ(fmt::format("{:08x}", events[0]->at.epoch), db.psql("select postbus.position()").substr(0, 8));
  EXPECT_LT(std::abs(now_micros() - events[2]->time), 60'000'000);
}

TEST(reader, reaches_the_position_that_a_writer_reads_after_its_commit) {
  database db;
  change_rig rig{db};
  rig.start();
  for (int i = 0; i < 300; ++i) {  // over several WAL pages and their boundaries
    const auto at =
        bus::parse_position(
            db.psql("create table if not exists filler(x text); insert into filler values (repeat('x', 333)); select postbus.position()"))
            .value();
    rig.wait([&] { return rig.hub.head() >= at; });
    i += 9;
  }
}

TEST(reader, carries_sixteen_megabytes_and_drops_forgeries) {
  database db;
  change_rig rig{db};
  rig.start();
  const auto dropped = metrics::value(metrics::counter::dropped_channel) + metrics::value(metrics::counter::dropped_content);
  db.psql(
      "select pg_logical_emit_message(true, 'postbus:t:table:public.t', 'forged'); "
      "select pg_logical_emit_message(true, 'postbus:t:a', '\\xff'::bytea); "
      "select pg_logical_emit_message(true, 'postbus:j:a', '1},{'); select pg_logical_emit_message(false, 'postbus:t:a', 'early'); "
      "select pg_logical_emit_message(true, 'postbus:flush', ''); select pg_logical_emit_message(true, 'foreign', 'x')");
  db.psql("select postbus.post('a', repeat('x', 16777216))");
  const auto got = rig.payloads("a", 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].size(), 16'777'216u);
  EXPECT_TRUE(rig.events("table:public.t").empty());
  EXPECT_EQ(metrics::value(metrics::counter::dropped_channel) + metrics::value(metrics::counter::dropped_content), dropped + 3);
}

TEST(reader, tells_a_gap_instead_of_a_transaction_beyond_its_bound) {
  database db;
  change_rig rig{db, [](reader_options& o) { o.limits.transaction_bytes = 1u << 20; }};
  rig.start();
  db.psql("select postbus.post('a', 'before')");
  db.psql("select postbus.post('a', repeat('x', 100000)) from generate_series(1, 20)");
  db.psql("select postbus.post('a', 'after')");
  rig.payloads("a", 3);
  const auto events = rig.events("a");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]->payload, "before");
  EXPECT_EQ(events[1]->kind, bus::kind::gap);
  EXPECT_THAT(text_of(events[1]), testing::HasSubstr("transaction_too_large"));
  EXPECT_EQ(events[2]->payload, "after");
}

TEST(reader, names_who_keeps_its_slot_waiting) {
  database db;
  change_rig rig{db, [](reader_options& o) { o.slot_deadline = 300ms; }};
  session writer{db.url()};
  writer.psql("set application_name = 'forgetful'; create table w(x int)");
  writer.psql("begin; insert into w values (1)");
  std::this_thread::sleep_for(1100ms);  // who has written for less than a second is not named
  boost::asio::co_spawn(rig.loop, rig.reader->run(), boost::asio::detached);
  rig.wait([&] { return rig.reader->status().problem.find("forgetful, idle in transaction") != std::string::npos; });
  EXPECT_EQ(rig.reader->status().state, reader_state::waiting_for_slot);
  writer.psql("commit");
  rig.wait([&] { return rig.reader->status().ready(); });
  EXPECT_EQ(rig.reader->status().problem, "");
  rig.reader->stop();
  rig.wait([&] { return rig.reader->status().state == reader_state::stopped; });
}

TEST(reader, heals_and_tells_of_the_gap) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.post('a', 'before')");
  rig.payloads("a", 1);
  const auto before = rig.reader->status();
  db.psql(
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus reader' and datname = current_database()");
  rig.wait([&] { return rig.reader->status().ready() && rig.reader->status().slot != before.slot; });
  db.psql("select postbus.post('a', 'after')");
  rig.payloads("a", 3);
  const auto events = rig.events("a");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]->payload, "before");
  EXPECT_EQ(events[1]->kind, bus::kind::gap);
  const auto gap = boost::json::parse(text_of(events[1])).as_object();
  EXPECT_EQ(gap.at("reason"), "reconnect");
  EXPECT_LE(bus::to_text(events[0]->at), std::string{gap.at("from").as_string()});
  EXPECT_EQ(events[2]->payload, "after");
  EXPECT_EQ(db.psql("select count(*) from pg_replication_slots where database = current_database()"), "1") << "the old slot is gone";
}

TEST(reader, another_epoch_is_a_reset) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.post('a', 'before')");
  rig.payloads("a", 1);
  db.psql(
      "select postbus.new_epoch(); "
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus reader' and datname = current_database()");
  const auto epoch = db.psql("select postbus.position()").substr(0, 8);
  rig.wait([&] { return fmt::format("{:08x}", rig.hub.head().epoch) == epoch; });
  const auto events = rig.events("a");
  ASSERT_EQ(events.size(), 1u) << "history of the old epoch is dropped";
  EXPECT_EQ(events[0]->kind, bus::kind::reset);
}

TEST(reader, survives_the_death_of_the_server_under_load) {
  testing_support::cluster own;
  database db{own};
  change_rig rig{db};
  rig.start();
  int posted = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) db.psql(fmt::format("select postbus.post('a', '{}')", ++posted));
    own.kill_postmaster();
    const auto slot = rig.reader->status().slot;
    rig.wait([&] { return rig.reader->status().ready() && rig.reader->status().slot != slot; });
  }
  db.psql("select postbus.post('a', 'end')");
  rig.wait([&] {
    const auto all = rig.events("a");
    return !all.empty() && all.back()->payload == "end";
  });
  int last = 0, gaps = 0;
  for (const auto& e : rig.events("a")) {
    if (e->kind == bus::kind::gap) {
      ++gaps;
    } else if (e->payload != "end") {
      const int n = std::stoi(text_of(e));
      EXPECT_GT(n, last) << "in order and once";
      if (n != last + 1) EXPECT_GT(gaps, 0) << "a loss is announced before what follows it";
      last = n;
    }
  }
  EXPECT_EQ(gaps, 3);
  rig.stop();
}

TEST(reader, notices_a_half_open_socket) {
  database db;
  change_rig rig{db, [](reader_options& o) {
                   o.conninfo_direct.clear();
                   o.pulse = {.feedback_every = 100ms, .silence = 200ms, .answer_within = 300ms};
                 }};
  rig.start();
  const auto slot = rig.reader->status().slot;
  rig.network.freeze();
  rig.wait([&] { return rig.reader->status().ready() && rig.reader->status().slot != slot; });
  db.psql("select postbus.post('a', 'after')");
  rig.wait([&] {
    const auto all = rig.events("a");
    return !all.empty() && all.back()->payload == "after";
  });
  EXPECT_EQ(rig.events("a").front()->kind, bus::kind::gap);
}

TEST(reader, hurries_asynchronous_commits_along) {
  database db;
  change_rig rig{db};
  rig.start();
  const auto pokes = metrics::value(metrics::counter::flush_pokes);
  session writer{db.url()};
  writer.psql("set synchronous_commit = off");
  // The first comes when the walwriter gets to it, and starts the poker; those that follow are hurried.
  for (int i = 0; i < 200; ++i) {
    writer.psql(fmt::format("select postbus.post('a', '{}')", i));
    rig.wait([&] { return rig.events("a").size() > static_cast<std::size_t>(i); });
    if (metrics::value(metrics::counter::flush_pokes) > pokes + 10) break;
  }
  EXPECT_GT(metrics::value(metrics::counter::flush_pokes), pokes + 10);
}

TEST(reader, stops_reading_while_the_hub_has_no_room_and_loses_nothing) {
  database db;
  change_rig rig{db, [](reader_options& o) { o.limits.publish_bytes = 64u << 10; }, {.history_bytes = 64u << 20, .inbox_bytes = 100'000}};
  struct counter : bus::listener {
    std::size_t count{};
    void on_event(bus::topic&, const bus::event_ref&) override { ++count; }
  } slow;
  bus::shard shard{rig.hub, {}, [] {}};
  rig.start();
  shard.subscribe(slow, "a", bus::from_now{});
  for (int i = 0; i < 20; ++i) db.psql("select postbus.post('a', repeat('x', 1000)) from generate_series(1, 500)");
  rig.wait([&] { return !rig.hub.has_room(); });
  const auto paused = rig.events("a").size();
  EXPECT_LT(paused, 10'000u);
  rig.wait([&] {
    shard.deliver();
    return slow.count == 10'000;
  });
  shard.unsubscribe(slow, "a");
}

}  // namespace
}  // namespace postbus::changes
