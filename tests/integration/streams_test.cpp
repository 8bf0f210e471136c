// Streams: posting, live delivery, and what gateways write down of it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/metrics.hpp"
#include "change_rig.hpp"

namespace postbus {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing_support::change_rig;
using testing_support::database;
using testing_support::session;

TEST(streams, keep_what_is_posted_and_deliver_it_live_in_commit_order) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s')");
  session one{db.url()}, two{db.url()};
  one.psql("begin; select postbus.post('s', 'first to begin, last to commit')");
  two.psql("begin; select postbus.post('s', 'lost'); rollback");
  two.psql(
      "begin; select postbus.post('s', 'kept'); savepoint p; select postbus.post('s', 'undone'); rollback to p; "
      "select postbus.post('s', '{\"x\": 1}'::jsonb); select postbus.post('other', 'beside'); commit");
  one.psql("commit");
  EXPECT_THAT(rig.payloads("s", 3), ElementsAre("kept", "{\"x\": 1}", "first to begin, last to commit"));
  const auto events = rig.events("s");
  EXPECT_EQ(events[0]->at.lsn, events[1]->at.lsn);
  EXPECT_LT(events[0]->at, events[1]->at);
  EXPECT_EQ(events[1]->form, bus::payload_form::json);
  EXPECT_EQ(events[0]->form, bus::payload_form::text);
  EXPECT_EQ(db.psql("select count(*) from postbus.messages where channel = 's'"), "3");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages where channel = 'other'"), "0");
  rig.catch_up_and_record(db);
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), "3");
  EXPECT_EQ(db.psql("select count from postbus.streams where channel = 's'"), "3");
}

TEST(streams, cost_nothing_to_post_where_there_are_none) {
  database db;
  const auto compiled = [&] { return db.psql("select prosrc from pg_proc where oid = 'postbus.post(text, text)'::regprocedure"); };
  const auto before = compiled();
  EXPECT_EQ(before.find("insert"), std::string::npos);
  db.psql("select postbus.create_stream('s')");
  EXPECT_NE(compiled().find("insert"), std::string::npos);
  db.psql("select postbus.set_payload_limit(100)");
  EXPECT_EQ(db.refused("select postbus.post('s', repeat('x', 101))").state, "PB002");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "0");
  db.psql("select postbus.drop_stream('s'); select postbus.set_payload_limit(16777216)");
  EXPECT_EQ(compiled(), before);
}

TEST(streams, may_have_any_name_that_a_channel_may_have) {
  database db;
  const std::vector<std::string> names{"it's",
                                       "$body$; drop schema postbus cascade; $body$",
                                       R"(back\slash \u0041 ")",
                                       "%s %L %1$s",
                                       "Größe 中文 🚋",
                                       std::string(255, 'x')};
  for (const auto& name : names) {
    const auto quoted = db.psql(fmt::format("select quote_literal($name${}$name$)", name));
    db.psql(
        fmt::format("select postbus.create_stream({0}); select postbus.post({0}, 'text'); select postbus.post({0}, '1'::jsonb)", quoted));
    EXPECT_EQ(db.psql(fmt::format("select string_agg(payload, ' ' order by id) from postbus.messages where channel = {}", quoted)),
              "text 1")
        << name;
  }
  EXPECT_EQ(db.psql("select count(*), count(distinct segment) from postbus.messages"),
            fmt::format("{}|{}", 2 * names.size(), names.size()));
  db.psql("select postbus.post('its', 'of no stream')");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), std::to_string(2 * names.size()));
}

TEST(streams, are_known_to_sessions_that_were_open_when_they_were_made_or_dropped) {
  database db;
  session open{db.url()};
  open.psql("select postbus.post('s', 'not kept')");
  db.psql("select postbus.create_stream('s')");
  open.psql("select postbus.post('s', 'kept')");
  db.psql("select postbus.create_stream('another')");
  open.psql("select postbus.post('s', 'kept too')");
  EXPECT_EQ(db.psql("select string_agg(payload, ', ' order by id) from postbus.messages"), "kept, kept too");
  db.psql("select postbus.drop_stream('s')");
  open.psql("select postbus.post('s', 'not kept')");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "2");
}

TEST(streams, are_not_forgotten_by_a_transaction_that_began_before_them) {
  database db;
  session old{db.url()};
  old.psql("begin isolation level repeatable read; select count(*) from pg_class");
  db.psql("select postbus.create_stream('s')");
  EXPECT_EQ(old.refused("select postbus.create_stream('t')").state, "40001") << "it would compile a post() that knows nothing of 's'";
  old.psql("rollback; begin isolation level repeatable read; select postbus.create_stream('t'); commit");
  db.psql("select postbus.post('s', '1'), postbus.post('t', '2')");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "2");
}

TEST(streams, are_refused_where_their_order_could_not_be_read) {
  database db;
  db.psql("select postbus.use_transport('notify')");
  const auto refused = db.refused("select postbus.create_stream('s')");
  EXPECT_EQ(refused.state, "PB011");
  db.psql("select postbus.use_transport('wal')");
  EXPECT_EQ(db.refused("select postbus.create_stream('table:x')").state, "PB001");
  EXPECT_EQ(db.refused("select postbus.create_stream('s', max_bytes => 1)").state, "22023");
  EXPECT_EQ(db.refused("select postbus.create_stream('s', keep => '0 s')").state, "22023");
  EXPECT_EQ(db.refused("select postbus.drop_stream('s')").state, "PB030");
}

TEST(streams, lose_no_post_to_a_missing_partition) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s'); select postbus.post('s', '1')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  db.psql("drop table postbus.messages_1");
  db.psql("select postbus.post('s', '2')");
  EXPECT_THAT(rig.payloads("s", 2), ElementsAre("1", "2"));
  EXPECT_EQ(db.psql("select count(*) from postbus.messages_default"), "1");
  EXPECT_EQ(db.psql("select postbus.maintain_streams()"), "1") << "the stream goes on in a new segment";
  db.psql("select postbus.post('s', '3')");
  EXPECT_THAT(rig.payloads("s", 3), ElementsAre("1", "2", "3"));
  EXPECT_EQ(db.psql("select count(*) from postbus.messages_default"), "1");
}

TEST(streams, lose_no_row_of_the_default_partition_that_is_committed_while_it_is_cleared) {
  database db;
  db.psql(
      "select postbus.create_stream('s'); drop table postbus.messages_1; "
      "insert into postbus.messages_default (segment, is_json, channel, payload) values (99999, false, 's', 'of a segment that has gone'); "
      "alter function postbus.maintain_streams() set lock_timeout = '30s'");
  session poster{db.url()};
  poster.psql("begin; select postbus.post('s', 'kept')");
  std::thread maintenance{[&] { db.psql("select postbus.maintain_streams()"); }};
  const auto limit = steady::now() + 20s;
  while (db.psql("select count(*) from pg_locks where relation = 'postbus.messages_default'::regclass and not granted") == "0" &&
         steady::now() < limit)
    std::this_thread::sleep_for(10ms);
  poster.psql("commit");
  maintenance.join();
  EXPECT_LT(steady::now(), limit) << "it waited for the poster, or this test shows nothing";
  EXPECT_EQ(db.psql("select count(*) from postbus.messages where payload = 'kept'"), "1");
}

TEST(streams, give_messages_that_no_gateway_saw_places_before_those_that_it_sees) {
  database db;
  db.psql("select postbus.create_stream('s'); select postbus.post('s', 'unseen ' || n) from generate_series(1, 3) n");
  {
    change_rig rig{db};
    rig.start();
    db.psql("select postbus.post('s', 'seen')");
    rig.payloads("s", 1);
    rig.catch_up_and_record(db);
  }
  db.psql("select postbus.post('s', 'unseen again')");
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.post('s', 'last')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  EXPECT_EQ(
      db.psql(
          "select string_agg(m.payload, ', ' order by p.lsn, p.id, k) from postbus.stream_positions p, generate_series(0, p.count - 1) k "
          "join postbus.messages m on true where m.id = ('x' || encode(substr(p.entries, 25 + k * 32, 8), 'hex'))::bit(64)::bigint"),
      "unseen 1, unseen 2, unseen 3, seen, unseen again, last");
}

TEST(streams, are_renumbered_once_in_a_new_epoch) {
  database db;
  db.psql("select postbus.create_stream('s'); update postbus.stream_channels set dropped_to = postbus.place(10, 0)");
  db.psql("select postbus.renumber_streams(77, 1000)");
  EXPECT_EQ(db.psql("select epoch, lsn, settled from postbus.stream_recorder"), "77|1000|f") << "a restart does not do it again";
}

TEST(streams, tell_a_listener_where_consumers_are) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s'); select postbus.post('s', n::text) from generate_series(1, 3) n");
  rig.payloads("s", 3);
  rig.catch_up_and_record(db);
  db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", bus::to_text(rig.events("s")[0]->at)));
  EXPECT_EQ(db.psql("set role postbus_listener; select channel, consumer, lag from postbus.consumers"), "s|c|2");
  EXPECT_EQ(db.psql("set role postbus_listener; select count from postbus.streams"), "3");
}

TEST(streams, tell_in_metrics_what_they_take_and_how_far_behind_their_places_are) {
  const auto gauge = [](metrics::gauge of) { return metrics::value(of); };
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s', max_bytes => 1048576), postbus.create_stream('t')");
  rig.wait([&] { return rig.recorder->leading(); });
  session keeps{db.url()};  // the places from being written down, and the bounds from being kept
  keeps.psql("begin; select from postbus.stream_recorder for update; select pg_advisory_xact_lock(1886352244, 1835101285)");
  for (int i = 0; i < 2; ++i)
    db.psql("select postbus.post('s', (select string_agg(md5(random()::text), '') from generate_series(1, 20000)))");
  rig.payloads("s", 2);
  bool ended = false;
  boost::asio::co_spawn(rig.loop, rig.recorder->maintain(), [&ended](std::exception_ptr) { ended = true; });
  rig.wait([&] { return gauge(metrics::gauge::streams) == 2 && gauge(metrics::gauge::stream_lag_bytes) > 600'000; });
  EXPECT_EQ(gauge(metrics::gauge::streams_past_bytes), 1);
  EXPECT_EQ(gauge(metrics::gauge::stream_segments), 2);
  EXPECT_GT(gauge(metrics::gauge::stream_bytes), 1'200'000);
  keeps.psql("rollback");
  rig.wait([&] { return gauge(metrics::gauge::stream_lag_bytes) == 0; });
  rig.recorder->stop();
  rig.wait([&] { return ended; });
}

}  // namespace
}  // namespace postbus
