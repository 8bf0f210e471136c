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

/** Writes a run down as a gateway would; its messages stand at (lsn, 0), (lsn, 1) and so on. */
void write_down(const database& db, std::string_view channel, int segment, int lsn, int count = 1) {
  db.psql(fmt::format(
      "insert into postbus.stream_positions (stream, lsn, id, segment, epoch, count, entries) select c.id, {1}, "
      "nextval('postbus.stream_position_id'), {2}, m.epoch, {3}, (select string_agg(postbus.place({1}, k) || int4send(1) || int8send(0) || "
      "int8send(nextval('postbus.message_id')), ''::bytea order by k) from generate_series(0, {3} - 1) k) "
      "from postbus.stream_channels c, postbus.meta m where c.channel = '{0}'",
      channel, lsn, segment, count));
  db.psql(fmt::format("update postbus.stream_recorder r set epoch = m.epoch, lsn = {}, settled = true from postbus.meta m", lsn));
}

void put_consumer(const database& db, std::string_view channel, std::string_view name, int lsn, int index) {
  db.psql(
      fmt::format("insert into postbus.stream_consumers (stream, consumer, epoch, place) select c.id, '{}', m.epoch, postbus.place({}, {}) "
                  "from postbus.stream_channels c, postbus.meta m where c.channel = '{}'",
                  name, lsn, index, channel));
}

/** One call as gateways make it. True: it is done. */
bool renumber(const database& db, int at_most = 20'000) {
  return db.psql(fmt::format("select postbus.renumber_streams((select epoch from postbus.meta), {})", at_most)) == "t";
}

TEST(streams, are_renumbered_once_in_a_new_epoch) {
  database db;
  db.psql("select postbus.create_stream('s')");
  write_down(db, "s", 1, 10);
  db.psql("select postbus.new_epoch()");
  EXPECT_TRUE(renumber(db));
  EXPECT_EQ(db.psql("select r.epoch = m.epoch, r.lsn = m.epoch_from, r.settled from postbus.stream_recorder r, postbus.meta m"), "t|t|f")
      << "a restart does not do it again";
  const auto places = [&] { return db.psql("select xmin, * from postbus.stream_positions"); };
  const auto before = places();
  EXPECT_TRUE(renumber(db));
  EXPECT_EQ(places(), before);
  EXPECT_EQ(db.refused("select postbus.renumber_streams(1)").state, "PB032");
}

TEST(streams, keep_their_order_and_their_consumers_however_often_the_epoch_changes_while_they_are_renumbered) {
  database db;
  db.psql("select postbus.create_stream('s'), postbus.create_stream('t')");
  for (int run = 1; run <= 30; ++run)
    for (int segment = 1; segment <= 2; ++segment) {
      const auto* const channel = segment == 1 ? "s" : "t";
      write_down(db, channel, segment, 10 * run, 1 + run % 3);
      put_consumer(db, channel, fmt::format("c{}", run), 10 * run, run % 2);
    }
  db.psql("update postbus.stream_channels set dropped_to = postbus.place(5, 0)");
  put_consumer(db, "s", "late", 3, 0);
  const auto order = [&] {
    return db.psql(
        "select string_agg(format('%s:%s', p.stream, ('x' || encode(substr(p.entries, 25 + k * 32, 8), 'hex'))::bit(64)::bigint), ' ' "
        "order by p.stream, p.lsn, p.id, k) from postbus.stream_positions p, generate_series(0, p.count - 1) k");
  };
  const auto consumers = [&] {
    return db.psql(
        "select string_agg(format('%s:%s:%s:%s', c.stream, c.consumer, postbus.messages_after(c.stream, c.epoch, c.place), c.place < "
        "s.dropped_to), ' ' order by c.stream, c.consumer) from postbus.stream_consumers c join postbus.stream_channels s on s.id = "
        "c.stream");
  };
  const auto messages = order(), places = consumers();
  for (const int calls : {3, 0, 1, 9, 2}) {
    db.psql("select postbus.new_epoch()");
    for (int i = 0; i < calls; ++i) EXPECT_FALSE(renumber(db, 4));
  }
  db.psql("select postbus.new_epoch()");
  int calls = 1;
  while (!renumber(db, 4)) ++calls;
  EXPECT_EQ(calls, 16) << "the pieces are as large as they were said to be";
  EXPECT_EQ(order(), messages);
  EXPECT_EQ(consumers(), places);
  EXPECT_EQ(db.psql("select bool_and(p.epoch = m.epoch and p.lsn = m.epoch_from) from postbus.stream_positions p, postbus.meta m"), "t");
  EXPECT_EQ(
      db.psql("select bool_and(base = 1 + before) from (select base, sum(count) over (partition by stream order by id) - count as before "
              "from postbus.stream_positions) x"),
      "t");
}

TEST(streams, keep_a_consumer_before_all_that_is_kept_when_another_epoch_begins_meanwhile) {
  database db;
  db.psql("select postbus.create_stream('s')");
  for (int run = 1; run <= 3; ++run) write_down(db, "s", 1, 10 * run, 2);
  db.psql("select postbus.new_epoch()");
  EXPECT_FALSE(renumber(db, 1));
  put_consumer(db, "s", "c", 0, 0);  // the place that a reader of all is told to begin at
  db.psql("select postbus.new_epoch()");
  while (!renumber(db)) {
  }
  EXPECT_EQ(db.psql("select lag from postbus.consumers"), "6");
}

TEST(streams, keep_a_consumer_before_what_it_has_still_to_come_where_others_have_been_dropped) {
  database db;
  db.psql("select postbus.create_stream('s')");
  db.psql("update postbus.stream_segments set stream = 1 where segment <= 2");
  for (const int segment : {2, 1, 2, 2}) {
    static int lsn = 0;
    write_down(db, "s", segment, lsn += 10);
  }
  db.psql("update postbus.stream_segments set emptied_at = now() where segment = 1");
  put_consumer(db, "s", "c", 5, 0);
  EXPECT_EQ(db.psql("select lag from postbus.consumers"), "3");
  db.psql("select postbus.new_epoch()");
  EXPECT_TRUE(renumber(db));
  EXPECT_EQ(db.psql("select lag from postbus.consumers"), "3");
}

TEST(streams, are_renumbered_when_those_who_acknowledged_before_have_ended) {
  database db;
  db.psql("select postbus.create_stream('s')");
  for (const int lsn : {10, 20, 30}) write_down(db, "s", 1, lsn);
  const auto ack = [&](const char* consumer, int lsn) {
    return fmt::format("select postbus.ack('s', '{}', '{}-{:016x}-00000000')", consumer,
                       db.psql("select lpad(to_hex(epoch), 8, '0') from postbus.meta"), lsn);
  };
  session open{db.url()}, older{db.url()};
  open.psql("begin; " + ack("c", 20));
  const auto of_the_old_epoch = ack("e", 20);
  older.psql("begin isolation level repeatable read; select from postbus.meta");
  db.psql("select postbus.new_epoch()");
  EXPECT_FALSE(renumber(db)) << "it may still commit";
  db.psql(ack("d", 40));
  open.psql("commit");
  EXPECT_TRUE(renumber(db));
  EXPECT_EQ(older.refused(of_the_old_epoch).state, "40001") << "it would commit a place of the old epoch";
  EXPECT_EQ(db.psql("select consumer, lag, position is null from postbus.consumers where consumer = 'c'"), "c|1|f");
}

TEST(streams, drop_nothing_while_they_are_renumbered) {
  database db;
  db.psql("select postbus.create_stream('s', max_count => 1)");
  db.psql("update postbus.stream_segments set stream = 1 where segment <= 2");
  db.psql("update postbus.stream_channels set segment = 2; update postbus.stream_segments set closed_at = now() where segment = 1");
  for (int lsn = 1; lsn <= 4; ++lsn) write_down(db, "s", lsn < 3 ? 1 : 2, lsn);
  db.psql("select postbus.new_epoch()");
  EXPECT_FALSE(renumber(db, 1));
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), "4") << "consumers' places count on them";
  while (!renumber(db, 1)) {
  }
  db.psql("update postbus.stream_recorder set settled = true; select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), "2");
}

TEST(streams, are_written_down_in_no_epoch_that_has_ended) {
  database db;
  db.psql("select postbus.create_stream('s')");
  const auto before = db.psql("select epoch from postbus.meta");
  db.psql("select postbus.new_epoch()");
  EXPECT_EQ(db.refused(fmt::format("select postbus.record_positions({}, 10, '{{}}', '{{}}', '{{}}', '{{}}')", before)).state, "PB032")
      << "what was committed since comes again";
}

TEST(streams, keep_few_runs_of_places_however_small_they_were_written) {
  database db;
  db.psql("select postbus.create_stream('s'); update postbus.stream_segments set stream = 1 where segment <= 3");
  const auto order = [&] {
    return db.psql(
        "select string_agg(encode(substr(p.entries, 1 + k * 32, 32), 'hex'), ' ' order by p.lsn, p.id, k), bool_and(length(entries) = 32 * "
        "count "
        "and count <= 4096 and substr(entries, length(entries) - 31, 8) = int8send(lsn)) from postbus.stream_positions p, "
        "generate_series(0, p.count - 1) k");
  };
  const auto runs = [&] {
    return db.psql("select string_agg(segment || ':' || count, ' ' order by lsn, id) from postbus.stream_positions");
  };
  int lsn = 0;
  const auto write = [&](int times, int segment, int count = 1) {
    for (int i = 0; i < times; ++i) write_down(db, "s", segment, ++lsn, count);
  };
  write(20, 1);
  write(1, 2, 300);
  write(15, 1);  // too few yet, and others' places lie between them and the first
  write(5, 2, 1000);
  write(1, 3);
  const auto before = order();
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(runs(), "1:20 2:300 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 1:1 2:4000 2:1000 3:1");
  EXPECT_EQ(order(), before);
  const auto rewritten = db.psql("select max(xmin::text::bigint) from postbus.stream_positions");
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select max(xmin::text::bigint) from postbus.stream_positions"), rewritten) << "nothing is written again for little";
}

TEST(streams, are_merged_where_they_were_renumbered_and_not_before) {
  database db;
  db.psql("select postbus.create_stream('s')");
  for (int lsn = 1; lsn <= 40; ++lsn) {
    write_down(db, "s", 1, 10 * lsn);
    put_consumer(db, "s", fmt::format("c{}", lsn), 10 * lsn, 0);
  }
  const auto lags = [&] { return db.psql("select string_agg(lag::text, ' ' order by consumer) from postbus.consumers"); };
  const auto before = lags();
  db.psql("select postbus.new_epoch()");
  EXPECT_FALSE(renumber(db, 10));
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select count(*) from postbus.stream_positions"), "40");
  while (!renumber(db, 10)) {
  }
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select count(*) from postbus.stream_positions"), "40") << "messages that no gateway saw may still come between";
  db.psql("update postbus.stream_recorder set settled = true; select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select base, count from postbus.stream_positions"), "1|40");
  EXPECT_EQ(lags(), before);
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
