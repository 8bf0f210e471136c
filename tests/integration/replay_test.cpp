// What streams keep, read back: the same messages in the same order with the same positions as they were delivered live.
#include <boost/asio/use_future.hpp>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "change_rig.hpp"
#include "embedded_sql.hpp"
#include "streams/entry.hpp"

namespace postbus {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing_support::absent_standby;
using testing_support::change_rig;
using testing_support::database;
using testing_support::permanent;
using testing_support::session;

struct told {
  bus::kind kind;
  std::string position, payload;
  bool operator==(const told&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const told& t) {
    return out << bus::to_text(t.kind) << ' ' << t.position << ' ' << t.payload;
  }
};

told as_told(const bus::event& e) { return {e.kind, bus::to_text(e.at), std::string{e.payload}}; }

/** Everything a stream keeps after `from`, page by page of at most `most`; `from` is then the place up to which that is. */
std::vector<told> replay_up_to(change_rig& rig, const std::string& channel, bus::start& from, std::size_t most = SIZE_MAX) {
  std::vector<told> all;
  for (bool end = false; !end;) {
    const auto read = std::make_shared<std::optional<result<streams::page>>>();  // it may come when nobody waits for it any more
    boost::asio::co_spawn(rig.loop, rig.store->read(channel, from, most), [read](std::exception_ptr thrown, result<streams::page> got) {
      if (thrown) std::rethrow_exception(thrown);
      *read = std::move(got);
    });
    rig.wait([&] { return read->has_value(); });
    const auto& page = *read;
    if (!*page) throw std::runtime_error{(*page).error().text + " " + (*page).error().detail};
    for (const auto* const e : (*page)->events->events()) all.push_back(as_told(*e));
    end = (*page)->end;
    from = (*page)->upto;
  }
  return all;
}

std::vector<told> replay(change_rig& rig, const std::string& channel, bus::start from, std::size_t most = SIZE_MAX) {
  return replay_up_to(rig, channel, from, most);
}

std::vector<told> live(const change_rig& rig, const std::string& channel) {
  std::vector<told> all;
  for (const auto& e : rig.events(channel)) all.push_back(as_told(*e));
  return all;
}

/** Writers that overlap, with savepoints, rollbacks and commits far from where their ids were drawn. */
void load(const std::string& url, int writer, int transactions) {
  session s{url};
  std::mt19937 random(static_cast<unsigned>(writer));
  for (int i = 0; i < transactions; ++i) {
    s.psql("begin");
    const auto posts = 1 + random() % 4;
    for (unsigned n = 0; n < posts; ++n) {
      if (random() % 4 == 0) s.psql(fmt::format("savepoint p; select postbus.post('s', 'undone'); rollback to p"));
      s.psql(fmt::format("select postbus.post('{}', '{}:{}:{}')", random() % 5 == 0 ? "t" : "s", writer, i, n));
      if (random() % 8 == 0) s.psql("select pg_sleep(0.003)");
    }
    s.psql(random() % 5 == 0 ? "rollback" : "commit");
  }
}

TEST(replay, equals_live_delivery_whatever_order_commits_come_in) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s', max_count => 400), postbus.create_stream('t')");
  std::vector<std::thread> writers;
  std::atomic<int> running{6};
  for (int w = 0; w < 6; ++w)
    writers.emplace_back([&, w] {
      load(db.url(), w, 60);
      --running;
    });
  rig.wait([&] { return running == 0; });
  for (auto& w : writers) w.join();
  rig.catch_up_and_record(db);
  const auto expected = live(rig, "s");
  ASSERT_GT(expected.size(), 300u);
  EXPECT_NE(
      db.psql(
          "select count(*) from (select x.id, lag(x.id) over (order by p.lsn, p.id, k) before from postbus.stream_positions p, "
          "generate_series(0, p.count - 1) k, "
          "lateral (select ('x' || encode(substr(p.entries, 25 + k * 32, 8), 'hex'))::bit(64)::bigint as id) x) y where y.id < y.before"),
      "0")
      << "the load has commits in another order than ids, or this test shows nothing";
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), expected);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}, 7), expected);
  EXPECT_EQ(replay(rig, "t", bus::from_beginning{}), live(rig, "t"));
  const auto middle = expected.size() / 2;
  const auto after = bus::parse_position(expected[middle].position).value();
  EXPECT_EQ(replay(rig, "s", after, 10), std::vector<told>(expected.begin() + static_cast<std::ptrdiff_t>(middle) + 1, expected.end()));
}

/** Numbered changes of three kinds, each in a subtransaction of its own or in that of those before it. Every fifth row is too large for a notification. */
std::string numbered(std::mt19937& random, int from, int upto) {
  std::string sql = "begin;";
  for (int n = from; n < upto; ++n) {
    if (random() % 3 == 0) sql += "savepoint s;";
    switch (random() % 3) {
      case 0: sql += fmt::format("select postbus.post('m', '{}');", n); break;
      case 1: sql += fmt::format("select postbus.post('s', '{}');", n); break;
      default: sql += fmt::format("insert into t values ({}, repeat('v', {}));", n, n % 5 == 0 ? 9'000 : 300);
    }
  }
  return sql + "commit";
}

/** How often test_decoding tells a numbered change after a later one of its transaction. */
const char* const told_late = R"sql(
  select count(*) from (
    select n, lag(n) over (order by place) before from (
      select place, substring(data from $$(?:content:|id\[integer\]:|payload\[text\]:')(\d+)$$)::int n
      from pg_logical_slot_get_changes('witness', null, null) with ordinality x(lsn, xid, data, place)) changes
    where n is not null) pairs
  where n < before)sql";

class across_savepoints : public testing::TestWithParam<bool> {};

TEST_P(across_savepoints, changes_come_in_the_order_in_which_they_were_made) {
  const bool in_pieces = GetParam();
  database db;
  db.psql("create table t(id int primary key, v text); select postbus.watch('t', notify => 'mirrored'), postbus.create_stream('s')");
  db.psql("select pg_create_logical_replication_slot('witness', 'test_decoding')");
  change_rig rig{db, [in_pieces](changes::reader_options& o) {
                   o.slot.wanted = changes::slot_choice::permanent;
                   if (!in_pieces) return;
                   o.decoding_kib = 64;
                   o.limits = {.publish_bytes = 5'000, .transaction_bytes = 64u << 20};
                 }};
  rig.start();
  session listening{db.url()};
  listening.psql("listen mirrored");
  std::mt19937 random{20261126};
  constexpr int all = 8'000, a_transaction = 400;
  for (int n = 0; n < all; n += a_transaction) db.psql(numbered(random, n, n + a_transaction));
  rig.catch_up_and_record(db);

  std::vector<std::pair<bus::position, std::string>> heard;
  std::string large_rows;
  for (const auto* channel : {"m", "s", "table:public.t"})
    for (const auto& e : rig.events(channel)) {
      if (e->kind == bus::kind::message) {
        heard.emplace_back(e->at, e->payload);
        continue;
      }
      const auto id = boost::json::parse({e->payload.data(), e->payload.size()}).at("data").at("id").as_int64();
      heard.emplace_back(e->at, std::to_string(id));
      if (id % 5 == 0) large_rows += fmt::format("{} {}\n", id, bus::to_text(e->at));
    }
  std::ranges::sort(heard);
  ASSERT_EQ(heard.size(), static_cast<std::size_t>(all));
  for (int n = 0; n < all; ++n) {
    const auto& [at, number] = heard[static_cast<std::size_t>(n)];
    ASSERT_EQ(number, std::to_string(n));
    ASSERT_EQ(at.index, static_cast<std::uint32_t>(n % a_transaction));
  }
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), live(rig, "s"));

  std::string notified;
  rig.wait([&] {
    notified += listening.notifications();
    return std::ranges::count(notified, '\n') == static_cast<std::ptrdiff_t>(rig.events("table:public.t").size());
  });
  std::string positions;  // only what is too large says where it stands
  for (std::size_t at = 0, end = 0; (end = notified.find('\n', at)) != std::string::npos; at = end + 1) {
    const auto payload = boost::json::parse(notified.substr(at, end - at).substr(std::string_view{"mirrored "}.size())).as_object();
    if (payload.contains("truncated"))
      positions += fmt::format("{} {}\n", payload.at("data").at("id").as_int64(), std::string{payload.at("position").as_string()});
  }
  EXPECT_EQ(positions, large_rows);

  EXPECT_NE(db.psql(told_late), "0") << "the server told all in order: this test shows nothing";
  const auto streamed =
      db.psql(fmt::format("select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{}'", rig.reader->status().slot));
  EXPECT_EQ(streamed, in_pieces ? "t" : "f");
}

INSTANTIATE_TEST_SUITE_P(whole_and_in_pieces, across_savepoints, testing::Bool());

TEST(replay, has_the_same_positions_after_another_gateway_took_over) {
  database db;
  std::vector<told> expected;
  db.psql("select postbus.create_stream('s')");
  change_rig second{db};
  {
    change_rig first{db};
    first.start();
    first.wait([&] { return first.recorder->leading(); });
    second.start();
    for (int i = 0; i < 30; ++i) db.psql(fmt::format("select postbus.post('s', '{}')", i));
    first.payloads("s", 30);
    EXPECT_FALSE(second.recorder->leading());
  }
  // The first one has ended, perhaps before it wrote everything down; the second has read the same WAL.
  second.payloads("s", 30);
  db.psql("select postbus.post('s', 'after')");
  second.payloads("s", 31);
  second.wait([&] { return second.recorder->leading(); });
  second.catch_up_and_record(db);
  EXPECT_EQ(replay(second, "s", bus::from_beginning{}), live(second, "s"));
}

TEST(replay, loses_nothing_to_a_gateway_that_dies_between_delivery_and_writing_down) {
  database db;
  db.psql("select postbus.create_stream('s')");
  std::vector<told> delivered;
  {
    change_rig rig{db};
    rig.start();
    rig.wait([&] { return rig.recorder->leading(); });
    db.psql("select postbus.post('s', 'written down')");
    rig.payloads("s", 1);
    rig.catch_up_and_record(db);
    session blocker{db.url()};
    blocker.psql("begin; lock table postbus.stream_positions in exclusive mode");
    db.psql("select postbus.post('s', 'delivered only')");
    rig.payloads("s", 2);
    delivered = live(rig, "s");
    EXPECT_FALSE(rig.recorder->idle());
    db.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus streams' and datname = "
        "current_database()");
    rig.stop();
    blocker.psql("rollback");
  }
  change_rig rig{db};
  rig.start();
  rig.catch_up_and_record(db);
  const auto kept = replay(rig, "s", bus::from_beginning{});
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[0], delivered[0]);
  EXPECT_EQ(kept[1].payload, "delivered only");
  EXPECT_GE(kept[1].position, delivered[1].position) << "a slot that is gone cannot tell its place again: it comes once more, never less";
}

bool is_acknowledged(const database& db, const change_rig& rig, const bus::position& at) {
  return db.psql(fmt::format("select confirmed_flush_lsn >= '0/0'::pg_lsn + {} from pg_replication_slots where slot_name = '{}'", at.lsn,
                             rig.reader->status().slot)) == "t";
}

bus::position place_of(const told& t) { return bus::parse_position(t.position).value(); }

TEST(replay, makes_the_server_keep_what_is_not_written_down_whatever_the_window_says) {
  database db;
  db.psql("select postbus.create_stream('s')");
  std::vector<told> delivered;
  const auto no_window = [](changes::reader_options& o) {
    permanent(o);
    o.window = {.age = 0s, .bytes = 0};
  };
  {
    change_rig rig{db, no_window};
    rig.start();
    rig.wait([&] { return rig.recorder->leading(); });
    db.psql("select postbus.post('s', 'written down')");
    rig.payloads("s", 1);
    rig.catch_up_and_record(db);
    delivered = live(rig, "s");
    rig.wait([&] { return is_acknowledged(db, rig, place_of(delivered[0])); });
    session blocker{db.url()};
    blocker.psql("begin; lock table postbus.stream_positions in exclusive mode");
    db.psql("select postbus.post('s', 'delivered only')");
    rig.payloads("s", 2);
    delivered = live(rig, "s");
    EXPECT_FALSE(rig.recorder->idle());
    for (int i = 0; i < 20; ++i) {
      db.psql("select postbus.post('a', 'kept nowhere')");
      rig.payloads("a", static_cast<std::size_t>(i) + 1);
      rig.wait([until = steady::now() + 25ms] { return steady::now() >= until; });
      ASSERT_FALSE(is_acknowledged(db, rig, place_of(delivered[1])));
    }
    db.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus streams' and datname = "
        "current_database()");
    rig.stop();
    blocker.psql("rollback");
  }
  change_rig rig{db, no_window};
  rig.start();
  rig.catch_up_and_record(db);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), delivered) << "where it was delivered";
  rig.wait([&] { return is_acknowledged(db, rig, place_of(delivered[1])); });
}

TEST(replay, makes_the_server_keep_what_another_gateway_has_not_written_down_yet) {
  database db;
  db.psql("select postbus.create_stream('s')");
  auto holder = std::make_unique<session>(db.url());
  holder->psql("select pg_advisory_lock(1886352244, 1937011309)");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.window = {.age = 0s, .bytes = 0};
                 }};
  rig.start();
  db.psql("select postbus.post('s', 'for the holder to write down')");
  rig.payloads("s", 1);
  const auto at = rig.events("s")[0]->at;
  for (int i = 0; i < 20; ++i) {
    db.psql("select postbus.post('a', 'kept nowhere')");
    rig.payloads("a", static_cast<std::size_t>(i) + 1);
    rig.wait([until = steady::now() + 25ms] { return steady::now() >= until; });
    ASSERT_FALSE(is_acknowledged(db, rig, at));
  }
  EXPECT_FALSE(rig.recorder->leading());
  EXPECT_FALSE(rig.recorder->idle());
  holder.reset();  // it has written nothing
  rig.wait([&] { return is_acknowledged(db, rig, at); });
  EXPECT_TRUE(rig.recorder->leading());
  EXPECT_TRUE(rig.recorder->idle());
}

TEST(replay, of_a_gateway_ends_where_it_has_published_however_far_another_has_written) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig writing{db};
  writing.start();
  writing.wait([&] { return writing.recorder->leading(); });
  change_rig behind{db, [](changes::reader_options& o) { o.conninfo_direct.clear(); }};
  behind.start();
  behind.network.freeze();  // no more of the WAL comes
  for (int i = 0; i < 5; ++i) db.psql("select postbus.post('s', 'x')");
  writing.payloads("s", 5);
  writing.catch_up_and_record(db);
  const auto looks = [&] {  // at how far the other one is: a statement of its session
    return db.psql(
        "select coalesce(max(query_start)::text, '') from pg_stat_activity where application_name = 'postbus streams' and datname = "
        "current_database()");
  };
  for (int i = 0; i < 5; ++i) behind.wait([&, last = looks()] { return looks() != last; });
  EXPECT_LE(behind.recorder->recorded(), behind.hub.head());
  EXPECT_LT(behind.recorder->recorded(), writing.events("s")[0]->at);
}

TEST(replay, leaves_no_statement_waiting_with_the_lock_when_a_gateway_goes) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db};
  rig.start();
  rig.wait([&] { return rig.recorder->leading(); });
  rig.catch_up_and_record(db);
  session blocker{db.url()};
  blocker.psql("begin; lock table postbus.stream_positions in exclusive mode");
  db.psql("select postbus.post('s', 'x')");
  const auto sessions = [&](std::string_view also) {
    return db.psql(fmt::format(
        "select count(*) from pg_stat_activity where application_name = 'postbus streams' and datname = current_database() {}", also));
  };
  rig.wait([&] { return sessions("and wait_event_type = 'Lock'") == "1"; });
  rig.stop();
  rig.wait([&] { return sessions("") == "0"; });
}

TEST(replay, wakes_those_who_wait_for_it_when_there_is_more_and_not_all_the_time) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db};
  rig.start();
  rig.wait([&] { return rig.recorder->leading(); });
  std::size_t woken = 0, waiting = 0;
  std::atomic<bool> stop{};
  for (int i = 0; i < 3; ++i)
    boost::asio::co_spawn(
        rig.loop,
        [&]() -> boost::asio::awaitable<void> {
          ++waiting;
          for (; !stop; ++woken) co_await rig.recorder->progress(1h);
          --waiting;
        },
        boost::asio::detached);
  rig.wait([&] { return waiting == 3; });
  db.psql("select postbus.post('s', 'x')");
  rig.catch_up_and_record(db);
  rig.wait([until = steady::now() + 100ms] { return steady::now() >= until; });
  EXPECT_GE(woken, 3u);
  EXPECT_LT(woken, 100u);
  stop = true;
  db.psql("select postbus.post('s', 'y')");
  rig.wait([&] { return waiting == 0; });
}

TEST(replay, lets_posts_and_reading_go_on_where_a_standby_is_waited_for) {
  testing_support::cluster own;
  database db{own};
  db.psql("select postbus.create_stream('s', max_bytes => 1048576)");
  change_rig rig{db};
  rig.start();
  session writer{db.url()};
  writer.psql("set synchronous_commit = local; set lock_timeout = '5s'");
  const absent_standby waited_for{own};
  bool maintaining = true;
  boost::asio::co_spawn(rig.loop, rig.recorder->maintain(), [&](const std::exception_ptr&) { maintaining = false; });
  const auto dropped = [&] { return writer.psql("select dropped_to is not null from postbus.stream_channels") == "t"; };
  rig.wait([&] {  // maintenance commits, and what it commits can be seen
    if (!dropped()) writer.psql("select postbus.post('s', repeat('x', 100000))");
    return dropped();
  });
  writer.psql("select postbus.post('s', 'last')");
  const auto kept = [&] { return replay(rig, "s", bus::from_beginning{}); };
  while (kept().back().payload != "last") {
  }
  rig.stop();
  rig.wait([&] { return !maintaining; });
}

TEST(recorder, goes_on_behind_a_large_transaction_that_broke_off_and_could_not_be_kept_then) {
  boost::asio::io_context loop;
  bus::hub hub;
  hub.begin({7, 100, 0});
  streams::recorder written{loop.get_executor(), {.conninfo = ""}, hub};
  written.begins_at({7, 100, 0});
  written.add({.xid = 1, .epoch = 7, .lsn = 200, .messages = {{.id = 1}}});
  written.abandon();
  written.missed({7, 200, bus::position::end_of_commit});
  EXPECT_TRUE(written.idle());
  written.add({.xid = 2, .epoch = 7, .lsn = 300, .messages = {{.id = 2}}});
  written.complete();
  EXPECT_EQ(written.recorded_lsn(), 299u) << "the first one is not in the way";
}

const std::vector<std::pair<std::string, std::string>> late_flushes{{"wal_writer_delay", "10s"}};

void nobody_hurries_them(changes::reader_options& o) {
  permanent(o);
  o.window = {.age = 0s, .bytes = 0};
  o.flush.late = 1h;
}

/** Posts behind the `posted` first ones; returns when the place of the last is written down, with that place. */
bus::position post_ten(change_rig& rig, const database& db, std::size_t& posted) {
  for (int i = 0; i < 10; ++i) db.psql(fmt::format("select postbus.post('s', '{}')", posted++));
  rig.payloads("s", posted);
  const auto last = rig.events("s").back()->at;
  rig.wait([&] { return rig.recorder->recorded() >= bus::position{last.epoch, last.lsn, bus::position::end_of_commit}; });
  return last;
}

TEST(replay, loses_no_place_to_a_crash_of_the_database) {
  testing_support::cluster own{late_flushes};
  database db{own};
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, nobody_hurries_them};
  rig.start();
  db.psql("select postbus.post('s', '0')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  std::size_t posted = 1;
  for (int round = 0; round < 3; ++round) {
    const auto last = post_ten(rig, db, posted);
    EXPECT_FALSE(is_acknowledged(db, rig, last)) << "the server may still forget that it was written down";
    own.kill_postmaster();
    EXPECT_LT(std::stoul(db.psql("select sum(count) from postbus.stream_positions")), posted) << "or this test shows nothing";
    db.psql(fmt::format("select postbus.post('s', '{}')", posted++));
    rig.payloads("s", posted);
    rig.catch_up_and_record(db);
    EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), live(rig, "s"));
    EXPECT_EQ(db.psql("select sum(count), bool_or(base is not null) from postbus.stream_positions"), fmt::format("{}|f", posted));
  }
  const auto last = rig.events("s").back()->at;
  rig.wait([&] {
    db.psql("select postbus.post('m', 'flushes what is before it')");
    return is_acknowledged(db, rig, last);
  });
}

/** The recorder finds out later than who reads. */
TEST(replay, has_no_hole_where_a_crash_of_the_database_took_places_back) {
  testing_support::cluster own{late_flushes};
  database db{own};
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, nobody_hurries_them};
  rig.start();
  std::size_t posted = 0;
  post_ten(rig, db, posted);
  own.kill_postmaster();
  EXPECT_EQ(db.psql("select coalesce(sum(count), 0) < 10 from postbus.stream_positions"), "t") << "or this test shows nothing";
  bus::start upto = bus::from_beginning{};
  auto given = replay_up_to(rig, "s", upto);
  for (const auto& e : rig.events("s"))  // as a listener goes on
    if (e->at > std::get<bus::position>(upto)) given.push_back(as_told(*e));
  EXPECT_EQ(given, live(rig, "s"));
}

TEST(replay, gives_nobody_a_place_of_what_no_gateway_saw_that_a_crash_may_take_back) {
  testing_support::cluster own{late_flushes};
  database db{own};
  db.psql("select postbus.create_stream('s'); select postbus.post('s', n::text) from generate_series(1, 5) n");
  change_rig rig{db, nobody_hurries_them};
  rig.start();
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}).size(), 5u);
  own.kill_postmaster();
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), "5");
}

TEST(replay, knows_what_is_flushed_where_a_page_of_the_wal_ends) {
  database db;
  session s{db.url()};
  const auto flushed = [&] {
    s.psql("select pg_switch_wal()");  // nothing follows the switch, so the place told is the one behind a header
    return s.psql(fmt::format("select flushed >= inserted from (\n{}\n) told(seen, inserted, flushed)",
                              embedded_sql::find("statements/streams/snapshot.sql"))) == "t";
  };
  bool once = false;
  for (int i = 0; i < 20 && !once; ++i) once = flushed();  // another process of the server may write meanwhile
  EXPECT_TRUE(once) << "or a recorder asks for ever";
}

TEST(replay, reads_no_further_than_it_may_hold_what_cannot_be_written_down) {
  constexpr int messages = 3000;
  database db;
  change_rig rig{db, permanent, {}, 20'000};
  rig.start();
  db.psql("select postbus.create_stream('s')");
  rig.wait([&] { return rig.recorder->leading(); });
  rig.catch_up_and_record(db);
  session locking{db.url()};
  locking.psql("begin");
  locking.psql("lock table postbus.stream_positions");
  db.psql(
      fmt::format("do $$ begin for i in 1..{} loop perform postbus.post('s', repeat('x', 2000) || i); commit; end loop; end $$", messages));
  rig.wait([&] { return !rig.recorder->has_room(); });
  const auto answered = [&] { return db.psql("select reply_time from pg_stat_replication where application_name = 'postbus reader'"); };
  for (int more = 0; more < 3; ++more) {  // the session stays alive meanwhile
    const auto last = answered();
    rig.wait([&] { return answered() != last; });
  }
  EXPECT_FALSE(rig.recorder->has_room());
  EXPECT_LT(rig.events("s").size(), messages / 2);
  locking.psql("rollback");
  rig.catch_up_and_record(db);
  EXPECT_TRUE(rig.recorder->has_room());
  EXPECT_EQ(rig.events("s").size(), messages);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), live(rig, "s"));
}

TEST(replay, costs_an_idle_server_no_writes_and_a_restart_no_search) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.window = {.age = 0s, .bytes = 0};
                 }};
  rig.start();
  rig.wait([&] { return rig.recorder->leading(); });
  db.psql("select postbus.post('s', 'the last one')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  bool maintaining = true;
  boost::asio::co_spawn(rig.loop, rig.recorder->maintain(), [&](const std::exception_ptr&) { maintaining = false; });
  const auto rounds = [&](int count) {
    for (auto last = rig.recorder->summary(); count > 0; --count, last = rig.recorder->summary())
      rig.wait([&] { return rig.recorder->summary() != last; });
  };
  const auto noted = [&] { return db.psql("select xmin, lsn from postbus.stream_recorder"); };
  rounds(2);
  const auto before = noted();
  rounds(20);
  EXPECT_EQ(noted(), before);
  EXPECT_EQ(db.psql("select bool_and(confirmed_flush_lsn - '0/0' <= lsn) from pg_replication_slots, postbus.stream_recorder"), "t")
      << "a slot that begins behind it makes the next holder search all messages";
  db.psql("select pg_logical_emit_message(true, 'other', repeat('x', 200000))");
  rig.wait([&] { return noted() != before; });
  rig.stop();
  rig.wait([&] { return !maintaining; });
}

TEST(replay, is_the_same_when_a_restarted_gateway_reads_its_slot_again) {
  database db;
  db.psql("select postbus.create_stream('s')");
  std::vector<told> expected;
  bus::position start;
  {
    change_rig rig{db, permanent};
    rig.start();
    start = rig.hub.head();
    for (int i = 0; i < 20; ++i) db.psql(fmt::format("select postbus.post('s', '{}')", i));
    rig.payloads("s", 20);
    rig.catch_up_and_record(db);
    expected = live(rig, "s");
  }
  db.psql("select postbus.post('s', 'while nobody read')");
  change_rig rig{db, permanent};
  rig.start();
  EXPECT_FALSE(is_acknowledged(db, rig, place_of(expected[0]))) << "they are read again, or this test shows nothing";
  rig.catch_up_and_record(db);
  const auto kept = replay(rig, "s", bus::from_beginning{});
  ASSERT_EQ(kept.size(), 21u);
  EXPECT_TRUE(std::ranges::equal(std::span{kept}.first(20), expected));
  std::vector<told> again;
  for (const auto& e : rig.hub.history("s", start).events) again.push_back(as_told(*e));
  EXPECT_EQ(again, kept) << "from memory as from the tables";
  EXPECT_EQ(db.psql("select sum(count), bool_or(base is not null) from postbus.stream_positions"), "21|f")
      << "each once, and none taken for one that nobody saw";
}

TEST(replay, equals_live_delivery_of_a_transaction_that_comes_in_pieces) {
  database db;
  db.psql("select postbus.create_stream('s')");
  const auto small_pieces = [](changes::reader_options& o) {
    permanent(o);
    o.decoding_kib = 64;
    o.limits = {.publish_bytes = 100'000, .transaction_bytes = 300'000};
  };
  std::vector<told> expected;
  {
    change_rig rig{db, small_pieces};
    rig.start();
    db.psql(
        "begin; select postbus.post('s', n || repeat('x', 500)) from generate_series(1, 3000) n; savepoint p; select postbus.post('s', "
        "'undone'); rollback to p; "
        "select postbus.post('s', 'last'); commit; select postbus.post('s', 'after')");
    rig.payloads("s", 3002);
    EXPECT_EQ(
        db.psql(fmt::format("select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{}'", rig.reader->status().slot)),
        "t");
    rig.catch_up_and_record(db);
    expected = live(rig, "s");
    EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), expected);
  }
  change_rig rig{db, small_pieces};
  rig.start();
  rig.catch_up_and_record(db);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), expected);
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), "3002");
}

TEST(replay, goes_on_within_and_behind_a_transaction_of_many_pages) {
  constexpr int messages = 20'000;
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s')");
  db.psql(fmt::format("begin; select postbus.post('s', n::text) from generate_series(1, {}) n; commit; select postbus.post('s', 'after')",
                      messages));
  rig.payloads("s", messages + 1);
  rig.catch_up_and_record(db);
  const auto expected = live(rig, "s");
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}, 1000), expected);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}), expected);
  constexpr int within = 17'000;
  EXPECT_EQ(replay(rig, "s", place_of(expected[within]), 100), std::vector<told>(expected.begin() + within + 1, expected.end()));
}

TEST(replay, has_what_was_too_large_to_be_delivered_while_other_messages_are_written_down) {
  database db;
  db.psql("select postbus.create_stream('s'), postbus.create_stream('t')");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                   o.spill.memory = 100'000;
                   o.spill.disk = 400'000;
                 }};
  rig.start();
  std::atomic<int> wanted{};  // of the others; -1: no more. Without a bound they would be ahead of any reader
  std::jthread others{[&](const std::stop_token& stop) {
    const std::stop_callback end{stop, [&] {
                                   wanted = -1;
                                   wanted.notify_one();
                                 }};
    session s{db.url()};
    for (int posted = 0, upto = 0; (upto = wanted) >= 0;)
      if (posted < upto)
        s.psql("select postbus.post('t', 'x')"), ++posted;
      else
        wanted.wait(upto);
  }};
  const auto more = [&](int count) {
    wanted += count;
    wanted.notify_one();
  };
  constexpr std::size_t rounds = 10;
  session large{db.url()};
  for (std::size_t round = 1; round <= rounds; ++round) {
    more(500);
    large.psql("begin; select postbus.post('s', n || repeat('x', 500)) from generate_series(1, 2000) n");
    rig.catch_up(db);  // all of it has been streamed: its end comes in the midst of others' messages
    const auto known = rig.events("t").size();
    more(500);
    rig.wait([&] { return rig.events("t").size() > known + 5; });
    large.psql("commit");
    rig.catch_up(db);
    ASSERT_EQ(replay(rig, "s", bus::from_beginning{}).size(), 2000 * round);
  }
  others.request_stop();
  others.join();
  rig.catch_up_and_record(db);
  EXPECT_EQ(db.psql("select sum(count) from postbus.stream_positions"), db.psql("select count(*) from postbus.messages"));
}

TEST(replay, has_what_was_too_large_to_be_delivered) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                   o.spill.memory = 100'000;
                   o.spill.disk = 400'000;
                 }};
  rig.start();
  db.psql("select postbus.post('s', 'before')");
  db.psql("select postbus.post('s', n || repeat('x', 500)) from generate_series(1, 3000) n");
  db.psql("select postbus.post('s', 'after')");
  rig.wait([&] { return rig.events("s").size() >= 3; });
  const auto delivered = live(rig, "s");
  ASSERT_EQ(delivered.size(), 3u);
  EXPECT_EQ(delivered[1].kind, bus::kind::gap);
  rig.catch_up_and_record(db);
  const auto kept = replay(rig, "s", place_of(delivered[0]));
  ASSERT_EQ(kept.size(), 3001u) << "who resumes from before the gap is given what it stood for";
  EXPECT_EQ(kept.back(), delivered[2]);
  EXPECT_TRUE(std::ranges::is_sorted(kept, {}, &told::position));
}

TEST(replay, has_what_was_too_large_to_be_delivered_and_became_visible_late) {
  testing_support::cluster own;
  database db{own};
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.decoding_kib = 64;
                   o.spill.memory = 100'000;
                   o.spill.disk = 400'000;
                 }};
  rig.start();
  db.psql("select postbus.post('s', 'before')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  session pending{db.url()}, other{db.url()};
  other.psql("set synchronous_commit = local");
  std::jthread writer;
  const absent_standby waited_for{own};  // goes before the writer is joined
  writer = std::jthread{[&] { pending.psql("select postbus.post('s', n || repeat('x', 500)) from generate_series(1, 3000) n"); }};
  rig.wait([&] { return rig.events("s").size() == 2; });
  EXPECT_EQ(rig.events("s")[1]->kind, bus::kind::gap);
  EXPECT_EQ(other.psql("select count(*) from postbus.messages"), "1") << "streamed and not visible";
  // Until the recorder has looked for it more than once: each look is a statement of its session.
  const auto looks = [&] {
    return other.psql(
        "select coalesce(max(query_start)::text, '') from pg_stat_activity where application_name = 'postbus streams' and "
        "datname = current_database()");
  };
  for (int i = 0; i < 5; ++i) rig.wait([&, last = looks()] { return looks() != last; });
  EXPECT_EQ(rig.recorder->recorded(), bus::position{}) << "nobody can say yet what is to be read there";
  waited_for.forget();
  writer.join();
  db.psql("select postbus.post('s', 'after')");
  rig.payloads("s", 3);
  rig.catch_up_and_record(db);
  const auto kept = replay(rig, "s", bus::from_beginning{});
  ASSERT_EQ(kept.size(), 3002u);
  EXPECT_EQ(kept.back(), live(rig, "s").back());
  EXPECT_TRUE(std::ranges::is_sorted(kept, {}, &told::position));
}

TEST(replay, keeps_the_bounds_of_bytes_count_and_age_and_tells_the_gap) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s', max_count => 80)");
  for (int i = 0; i < 20; ++i) {
    db.psql(fmt::format("select postbus.post('s', (n + {})::text) from generate_series(0, 9) n", i * 10));
    rig.payloads("s", static_cast<std::size_t>(i + 1) * 10);
    rig.catch_up_and_record(db);
    db.psql("select postbus.maintain_streams()");
  }
  const auto everything = live(rig, "s");
  const auto kept = replay(rig, "s", bus::from_beginning{});
  EXPECT_LE(kept.size(), 80u);
  EXPECT_GE(kept.size(), 70u) << "an eighth less than the bound at most";
  EXPECT_TRUE(std::ranges::equal(kept, std::span{everything}.last(kept.size())));
  const auto late = replay(rig, "s", bus::parse_position(everything[5].position).value());
  ASSERT_EQ(late.size(), kept.size() + 1);
  EXPECT_EQ(late[0].kind, bus::kind::gap);
  EXPECT_THAT(late[0].payload, testing::HasSubstr("expired"));
  EXPECT_LT(late[0].position, late[1].position);
  EXPECT_EQ(replay(rig, "s", bus::position{rig.hub.head().epoch, 0, 0}), kept) << "where a reader of all stands before its first event";
  EXPECT_EQ(db.psql("select count(*) < 25 from pg_class where relname like 'messages\\_%' and relkind = 'r'"), "t")
      << "partitions are dropped";

  db.psql("select postbus.create_stream('b', max_bytes => 1048576)");
  for (int i = 0; i < 60; ++i) {
    db.psql("select postbus.post('b', repeat('x', 1000) || random()) from generate_series(1, 50)");
    rig.catch_up_and_record(db);
    db.psql("select postbus.maintain_streams()");
    EXPECT_EQ(db.psql("select past_bytes from postbus.streams where channel = 'b'"), "f");
  }
  EXPECT_EQ(db.psql("select bytes > 500000 from postbus.streams where channel = 'b'"), "t");

  db.psql("select postbus.create_stream('a', keep => '1 hour'); select postbus.post('a', 'old')");
  rig.payloads("a", 1);
  rig.catch_up_and_record(db);
  db.psql(
      "update postbus.stream_segments set made_at = made_at - interval '20 minutes' where segment = (select segment from "
      "postbus.stream_channels where channel = 'a'); "
      "select postbus.maintain_streams(); select postbus.post('a', 'new')");
  rig.payloads("a", 2);
  rig.catch_up_and_record(db);
  EXPECT_EQ(replay(rig, "a", bus::from_beginning{}).size(), 2u);
  db.psql(
      "update postbus.stream_segments set closed_at = closed_at - interval '61 minutes' where closed_at is not null; select "
      "postbus.maintain_streams()");
  const auto young = replay(rig, "a", bus::from_beginning{});
  ASSERT_EQ(young.size(), 1u);
  EXPECT_EQ(young[0].payload, "new");
}

TEST(replay, goes_on_within_runs_that_were_merged_between_two_pages) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db};
  rig.start();
  for (std::size_t i = 1; i <= 40; ++i) {
    db.psql(fmt::format("select postbus.post('s', '{}')", i));
    rig.payloads("s", i);
    rig.catch_up_and_record(db);
  }
  const auto runs = [&] { return std::stoi(db.psql("select count(*) from postbus.stream_positions")); };
  ASSERT_GE(runs(), 16);
  const auto expected = live(rig, "s");
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}, 7), expected);
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(runs(), 1);
  for (std::size_t after : {0u, 6u, 20u, 38u})
    EXPECT_EQ(replay(rig, "s", place_of(expected[after]), 7),
              std::vector<told>(expected.begin() + static_cast<std::ptrdiff_t>(after) + 1, expected.end()));
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}, 7), expected);
}

TEST(replay, tells_the_gap_of_messages_that_are_past_the_bound_before_they_are_written_down) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s', max_bytes => 1048576); select postbus.post('s', 'first')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", bus::to_text(rig.events("s")[0]->at)));
  session blocker{db.url()};
  blocker.psql("begin; select from postbus.stream_recorder for update");
  db.psql("update postbus.stream_segments set made_at = made_at - interval '1 year'");
  const auto post = [&](const char* what, int count) {
    db.psql(
        fmt::format("select postbus.post('s', '{}' || n || repeat('x', 100000) || random()) from generate_series(1, {}) n", what, count));
  };
  post("A", 2);
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select count(*) from postbus.stream_segments where closed_at is not null"), "1") << "or this test shows nothing";
  db.psql("alter table postbus.messages_2 alter payload set storage external");
  post("B", 12);
  for (int i = 0; i < 3; ++i) db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select bytes > max_bytes from postbus.streams"), "t");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "15") << "what is not written down stays";
  blocker.psql("rollback");
  rig.catch_up_and_record(db);
  db.psql("select postbus.maintain_streams()");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "12");
  const auto left = replay(rig, "s", bus::parse_position(db.psql("select position from postbus.consumers")).value());
  ASSERT_EQ(left.size(), 13u);
  EXPECT_EQ(left[0].kind, bus::kind::gap);
  EXPECT_EQ(left[1].payload.substr(0, 3), "B1x");
}

TEST(replay, loses_nothing_within_the_bounds_to_a_burst) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('n', max_count => 1000), postbus.create_stream('b', max_bytes => 1048576)");
  const auto post = [&](const char* channel, int from, int to) {
    db.psql(fmt::format("select postbus.post('{}', n || repeat('x', 1000)) from generate_series({}, {}) n", channel, from, to));
    rig.catch_up_and_record(db);
  };
  const auto maintain = [&] {
    for (int i = 0; i < 3; ++i) db.psql("select postbus.maintain_streams()");
  };
  const auto kept = [&](const char* channel) { return replay(rig, channel, bus::from_beginning{}).size(); };
  post("n", 1, 2000);
  post("b", 1, 2000);
  maintain();
  EXPECT_EQ(kept("n"), 2000u) << "one segment, and half of it is within the bound";
  EXPECT_EQ(kept("b"), 2000u);
  EXPECT_EQ(db.psql("select past_bytes from postbus.streams where channel = 'b'"), "t");
  post("n", 2001, 2500);
  post("b", 2001, 2400);
  maintain();
  EXPECT_EQ(kept("n"), 2500u) << "half of what is within the bound still stands in it";
  EXPECT_EQ(kept("b"), 2400u);
  post("n", 2501, 2900);
  post("b", 2401, 3000);
  maintain();
  EXPECT_EQ(kept("n"), 900u);
  EXPECT_EQ(kept("b"), 1000u);
  EXPECT_EQ(replay(rig, "n", bus::from_beginning{}).back(), live(rig, "n").back());
}

TEST(replay, drops_segments_under_load_without_keeping_posters_waiting) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s', max_count => 100)");
  std::atomic<bool> stop{false};
  std::atomic<int> posted{0}, kept_waiting{0};
  std::vector<std::thread> writers;
  for (int w = 0; w < 3; ++w)
    writers.emplace_back([&] {
      session s{db.url()};
      s.psql("set lock_timeout = '10s'");  // who had to wait for the long transaction would wait for good
      while (!stop) ++(s.refused("select postbus.post('s', 'x')").state.empty() ? posted : kept_waiting);
    });
  session holds{db.url()};
  holds.psql("begin; select postbus.post('s', 'a long transaction')");
  std::thread keeper{[&] {
    session s{db.url()};
    s.psql("set lock_timeout = '15s'");
    const auto maintain = [&] {
      for (int i = 0; i < 40 && kept_waiting == 0; ++i)
        if (!s.refused("select postbus.maintain_streams(), pg_sleep(0.01)").state.empty()) ++kept_waiting;
    };
    maintain();
    holds.psql("commit");
    maintain();
    stop = true;
  }};
  rig.wait([&] { return stop.load(); });
  keeper.join();
  for (auto& w : writers) w.join();
  EXPECT_EQ(kept_waiting, 0) << "dropping keeps nobody waiting for a long transaction, nor waits for it";
  rig.payloads("s", static_cast<std::size_t>(posted) + 1);
  rig.catch_up_and_record(db);
  db.psql("select postbus.maintain_streams()");
  db.psql("select postbus.maintain_streams()");
  const auto kept = replay(rig, "s", bus::from_beginning{});
  const auto everything = live(rig, "s");
  ASSERT_LT(kept.size(), everything.size());
  // The long transaction's message was committed last and stood in an early segment: where it and its like are missing
  // among later ones, a gap says so.
  std::size_t next = everything.size();
  bool gap = true;
  for (const auto& one : kept) {
    if (one.kind == bus::kind::gap) {
      gap = true;
      continue;
    }
    const auto found = static_cast<std::size_t>(std::ranges::find(everything, one) - everything.begin());
    ASSERT_LT(found, everything.size()) << one;
    EXPECT_TRUE(gap || found == next) << one;
    next = found + 1;
    gap = false;
  }
  EXPECT_TRUE(gap || next == everything.size());
}

/** Where the slot outlives the epoch it brings nothing of the old one again. */
void goes_on_in_a_new_epoch(const change_rig::adjustment& adjust) {
  database db;
  db.psql("select postbus.create_stream('s')");
  {
    change_rig rig{db, adjust};
    rig.start();
    db.psql("select postbus.post('s', n::text) from generate_series(1, 5) n");
    rig.payloads("s", 5);
    rig.catch_up_and_record(db);
    db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", bus::to_text(rig.events("s")[2]->at)));
  }
  db.psql("select postbus.post('s', '6')");
  db.psql("select postbus.new_epoch()");
  change_rig rig{db, adjust};
  rig.start();
  db.psql("select postbus.post('s', '7')");
  rig.payloads("s", 1);
  rig.catch_up_and_record(db);
  const auto kept = replay(rig, "s", bus::from_beginning{});
  ASSERT_EQ(kept.size(), 7u);
  for (std::size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(kept[i].payload, std::to_string(i + 1));
    if (i > 0) EXPECT_LT(kept[i - 1].position, kept[i].position);
  }
  EXPECT_EQ(kept[6].position, live(rig, "s")[0].position);
  EXPECT_EQ(db.psql("select lag from postbus.consumers"), "4");
  const auto place = bus::parse_position(db.psql("select position from postbus.consumers")).value();
  EXPECT_EQ(replay(rig, "s", place).front().payload, "4");
}

TEST(replay, goes_on_in_a_new_epoch_with_places_before_what_comes) { goes_on_in_a_new_epoch({}); }

TEST(replay, goes_on_in_a_new_epoch_where_the_slot_holds_the_old_one) { goes_on_in_a_new_epoch(permanent); }

TEST(replay, ends_when_positions_begin_anew_meanwhile) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db, [](changes::reader_options& o) {
                   permanent(o);
                   o.look_after = 100ms;
                 }};
  rig.start();
  db.psql("select postbus.post('s', n::text) from generate_series(1, 5) n");
  rig.payloads("s", 5);
  rig.catch_up_and_record(db);
  const auto second = rig.events("s")[1]->at;
  for (int i = 0; i < 4; ++i) {  // the new number may be the larger or the smaller one
    db.psql("select postbus.new_epoch()");
    const auto drawn = std::stoull(db.psql("select epoch from postbus.meta"));
    rig.wait([&] { return rig.hub.head().epoch == drawn; });
    EXPECT_THROW(replay(rig, "s", second, 1), std::runtime_error) << "its place is among positions that are no more";
    EXPECT_EQ(replay(rig, "s", bus::from_beginning{}).size(), 5u);
  }
}

/** Another gateway drew the epoch and gives what is kept new positions: the old ones are no stream with holes. */
TEST(replay, ends_where_another_epoch_was_drawn_of_which_its_gateway_has_not_heard) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.post('s', n::text) from generate_series(1, 5) n");
  rig.payloads("s", 5);
  rig.catch_up_and_record(db);
  EXPECT_EQ(replay(rig, "s", bus::from_beginning{}).size(), 5u);
  rig.reader->stop();  // it hears of nothing any more
  db.psql("select postbus.new_epoch(); update postbus.stream_positions set epoch = (select epoch from postbus.meta)");
  try {
    const auto told = replay(rig, "s", bus::from_beginning{});
    ADD_FAILURE() << "a stream of " << told.size();
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string_view{e.what()}.find("positions began anew"), std::string_view::npos) << e.what();
  }
}

TEST(recorder, gives_the_lead_to_another_gateway_when_its_own_does_not_read) {
  database db;
  db.psql("select postbus.create_stream('s')");
  change_rig first{db}, second{db};
  first.start();
  first.wait([&] { return first.recorder->leading(); });
  second.start();
  first.reader->stop();  // as one that may not, or cannot
  db.psql("select postbus.post('s', 'one'), postbus.post('s', 'two')");
  second.wait([&] {
    first.loop.restart();
    first.loop.poll();
    return second.recorder->leading();
  });
  EXPECT_FALSE(first.recorder->leading());
  second.catch_up_and_record(db);
  EXPECT_EQ(replay(second, "s", bus::from_beginning{}), live(second, "s"));
  EXPECT_EQ(live(second, "s").size(), 2u);
}

TEST(replay, tells_a_consumer_in_a_new_epoch_what_it_missed_before) {
  database db;
  db.psql("select postbus.create_stream('s', max_count => 8)");
  {
    change_rig rig{db};
    rig.start();
    for (std::size_t i = 1; i <= 12; ++i) {
      db.psql(fmt::format("select postbus.post('s', '{}')", i));
      rig.payloads("s", i);
      rig.catch_up_and_record(db);
      if (i == 1) db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", bus::to_text(rig.events("s")[0]->at)));
      db.psql("select postbus.maintain_streams()");
    }
    db.psql(fmt::format("select postbus.ack('s', 'd', '{}')", bus::to_text(rig.events("s")[10]->at)));
  }
  db.psql("select postbus.new_epoch()");
  change_rig rig{db};
  rig.start();
  rig.catch_up_and_record(db);
  const auto of = [&](const char* consumer) {
    return replay(
        rig, "s",
        bus::parse_position(db.psql(fmt::format("select position from postbus.consumers where consumer = '{}'", consumer))).value());
  };
  const auto missed = of("c");
  ASSERT_GT(missed.size(), 2u);
  EXPECT_EQ(missed.front().kind, bus::kind::gap);
  EXPECT_EQ(missed.back().payload, "12");
  ASSERT_EQ(of("d").size(), 1u);
  EXPECT_EQ(of("d").front().payload, "12");
}

TEST(replay, holds_consumers_places) {
  database db;
  change_rig rig{db};
  rig.start();
  db.psql("select postbus.create_stream('s')");
  db.psql("select postbus.post('s', n::text) from generate_series(1, 10) n");
  rig.payloads("s", 10);
  rig.catch_up_and_record(db);
  const auto events = live(rig, "s");
  EXPECT_EQ(db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", events[6].position)), "t");
  EXPECT_EQ(db.psql("select lag from postbus.consumers"), "3");
  EXPECT_EQ(db.psql(fmt::format("select postbus.ack('s', 'c', '{}')", events[3].position)), "f") << "places go forward only";
  EXPECT_EQ(db.psql("select position from postbus.consumers"), events[6].position);
  EXPECT_EQ(db.refused(fmt::format("select postbus.ack('s', 'c', '0000abcd{}')", events[8].position.substr(8))).state, "PB032");
  EXPECT_EQ(db.refused(fmt::format("select postbus.ack('s', 'c', '{}7fffffff00000000-00000000')", events[8].position.substr(0, 9))).state,
            "PB031");
  EXPECT_EQ(db.refused("select postbus.ack('s', 'c', 'nonsense')").state, "PB031");
  EXPECT_EQ(db.refused(fmt::format("select postbus.ack('other', 'c', '{}')", events[8].position)).state, "PB030");
  std::optional<result<bus::start>> start;
  boost::asio::co_spawn(rig.loop, rig.store->consumer_start("s", "c"),
                        [&](std::exception_ptr, result<bus::start> got) { start = std::move(got); });
  rig.wait([&] { return start.has_value(); });
  EXPECT_EQ(bus::to_text(std::get<bus::position>(**start)), events[6].position);
  db.psql("select postbus.drop_stream('s')");
  EXPECT_EQ(db.psql("select count(*) from postbus.consumers"), "0");
}

}  // namespace
}  // namespace postbus
