// Rows first, then what they did not see, then what is live: what a subscriber builds from it is the table.
#include <gtest/gtest.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/json.hpp>

#include <climits>
#include <map>
#include <random>
#include <thread>

#include "base/metrics.hpp"
#include "bus/shard.hpp"
#include "change_rig.hpp"
#include "feeds/snapshots.hpp"
#include "gateway/encoding.hpp"
#include "gateway/snapshot_rows.hpp"

namespace postbus::feeds {
namespace {

using namespace std::chrono_literals;
using testing_support::absent_standby;
using testing_support::cluster;
using testing_support::database;
using testing_support::session;
namespace asio = boost::asio;

struct snapshot_rig : testing_support::change_rig {
  explicit snapshot_rig(const database& db, const std::function<void(snapshots::settings&)>& adjust = {}, bus::hub_limits limits = {})
      : change_rig{db, {}, limits}, shard{hub, gateway::encoders(), [this] { asio::post(loop, [this] { shard.deliver(); }); }} {
    snapshots::settings settings{.conninfo = db.url()};
    settings.shared_for = {};
    if (adjust) adjust(settings);
    rows = std::make_unique<snapshots>(loop.get_executor(), settings, hub, *reader, [this](std::string_view, asio::awaitable<void> work) {
      ++fills;
      asio::co_spawn(loop, std::move(work), [this](const std::exception_ptr& thrown) {
        --fills;
        if (thrown) std::rethrow_exception(thrown);
      });
    });
    start();
  }
  ~snapshot_rig() {
    rows->stop();
    wait([this] { return fills == 0; });
    stop();
  }
  result<std::unique_ptr<spool_reader>> open(const std::string& channel) {
    result<std::unique_ptr<spool_reader>> opened{error{}};
    testing_support::run(loop, [](snapshot_rig& self, std::string of, auto& into) -> asio::awaitable<void> {
      into = co_await self.rows->open(of, nullptr);
    }(*this, channel, opened));
    return opened;
  }
  bus::shard shard;
  std::unique_ptr<snapshots> rows;
  int fills{};
};

/** A listener that keeps a copy of a table with the columns id (its key) and v. */
struct copy_of_table : bus::listener {
  copy_of_table(snapshot_rig& r, std::string of) : rig{r}, channel{std::move(of)} {}
  ~copy_of_table() override {
    if (attached) rig.shard.unsubscribe(*this, channel);
  }
  result<> begin() {
    auto opened = rig.open(channel);
    if (!opened) return opened.error();
    given = std::make_unique<gateway::snapshot_rows>(std::move(*opened), [this] { ++rung; });
    return {};
  }
  /** Takes what rows there are; true when it has been joined or has failed. */
  bool advance(std::size_t most = SIZE_MAX) {
    using enum gateway::snapshot_rows::outcome;
    while (given && most-- > 0) {
      switch (given->next([this](const bus::event& e) { take(e); })) {
        case row: continue;
        case waiting: return false;
        case failed:
          why = given->why();
          given.reset();
          return true;
        case complete: break;
      }
      auto replay = rig.shard.subscribe(*this, channel, given->from());
      attached = true;
      if (!given->join(replay))
        why = error{errc::start_over, "history"};
      else
        for (const auto& e : replay.events) take(*e);
      given.reset();
    }
    return !given;
  }
  void on_event(bus::topic&, const bus::event_ref& e) override { take(*e); }
  void take(const bus::event& e) {
    const auto payload = boost::json::parse({e.payload.data(), e.payload.size()}).as_object();
    const auto key = [&](const char* of) { return payload.at(of).at("id").to_number<int>(); };
    EXPECT_EQ(e.at == bus::position{}, !live && e.kind != bus::kind::live) << "what comes before `live` has no id, and all after it has";
    if (!live && e.kind != bus::kind::row && e.kind != bus::kind::live) ++unseen;
    switch (e.kind) {
      case bus::kind::row:
      case bus::kind::insert:
        if (!rows.emplace(key("data"), payload.at("data").at("v").to_number<int>()).second) wrong += fmt::format("{} twice; ", key("data"));
        break;
      case bus::kind::update:
        if (rows.erase(payload.contains("old") ? key("old") : key("data")) != 1)
          wrong += fmt::format("an update of the missing {}; ", key("data"));
        rows[key("data")] = payload.at("data").at("v").to_number<int>();
        break;
      case bus::kind::delete_:
        if (rows.erase(key("data")) != 1) wrong += fmt::format("a delete of the missing {}; ", key("data"));
        break;
      case bus::kind::truncate: rows.clear(); break;
      case bus::kind::live:
        live = true;
        live_at = e.at;
        break;
      default: wrong += std::string{to_text(e.kind)} + "; ";
    }
  }
  std::string text() const {
    std::string all;
    for (const auto& [id, v] : rows) all += fmt::format("{}={} ", id, v);
    return all;
  }

  snapshot_rig& rig;
  std::string channel;
  std::unique_ptr<gateway::snapshot_rows> given;
  std::map<int, int> rows;
  std::string wrong;
  std::optional<error> why;
  bus::position live_at;
  int rung{}, unseen{};
  bool live{}, attached{};
};

std::string table_text(const database& db, const std::string& table = "t") {
  return db.psql(fmt::format("select coalesce(string_agg(id || '=' || v || ' ', '' order by id), '') from {}", table));
}

/** Lets writers run ahead of whoever reads by a number of transactions, not by what the machine gives them. */
class pace {
public:
  void allow(int more) {
    allowed_ += more;
    allowed_.notify_all();
  }
  void end() {
    allowed_ = over;
    allowed_.notify_all();
  }
  /** False: it is over. */
  bool may_go_on(int done) const {
    for (int now = allowed_; done >= now; now = allowed_) allowed_.wait(now);
    return allowed_ != over;
  }

private:
  static constexpr int over = INT_MAX;
  std::atomic<int> allowed_{};
};

/** One writer of its own ids: everything a transaction may do. */
void write(const std::string& url, unsigned seed, int writer, const pace& run) {
  std::mt19937 random{seed};
  const auto below = [&random](unsigned n) { return static_cast<int>(random() % n); };
  session s{url};
  if (writer == 0) s.psql("set synchronous_commit = off");
  s.psql("set lock_timeout = '5s'");
  int next = writer * 1'000'000;
  const auto change = [&] {
    const int some = writer * 1'000'000 + below(static_cast<unsigned>(next % 1'000'000 + 1));
    switch (below(8)) {
      case 0: s.psql(fmt::format("delete from t where id = {}", some)); break;
      case 1: s.psql(fmt::format("update t set v = v + 1 where id = {}", some)); break;
      case 2: s.psql(fmt::format("update t set id = {} where id = {}", next++, some)); break;
      case 3:
        s.psql(fmt::format("insert into t select i, {} from generate_series({}, {}) i", below(1000), next, next + 20));
        next += 21;
        break;
      default: s.psql(fmt::format("insert into t values ({}, {})", next++, below(1000)));
    }
  };
  for (int round = 0; run.may_go_on(round); ++round) {
    if (below(200) == 0) {
      s.psql("truncate t");
      continue;
    }
    s.psql("begin");
    change();
    if (below(3) == 0) {
      s.psql("savepoint a");
      change();
      if (below(2) == 0) s.psql("rollback to a");
      change();
    }
    if (below(6) == 0) {
      s.psql("rollback");
    } else if (below(6) == 0) {
      const auto name = fmt::format("p{}_{}", writer, round);
      s.psql(fmt::format("prepare transaction '{}'", name));
      s.psql(fmt::format("{} prepared '{}'", below(3) == 0 ? "rollback" : "commit", name));
    } else {
      s.psql("commit");
    }
  }
}

/** 25 snapshots under four writers, on a database of its own. */
void join_random_changes(cluster& here, unsigned seed) {
  database db{here};
  db.psql("create table t(id int primary key, v int); select postbus.watch('t')");
  snapshot_rig rig{db};
  pace run;
  std::vector<std::jthread> writers;
  for (int w = 0; w < 4; ++w) writers.emplace_back([&, w] { write(db.url(), seed + static_cast<unsigned>(w), w, run); });
  const struct ending {
    ~ending() { of.end(); }
    pace& of;
  } end_writers{run};  // also when the test fails
  std::mt19937 random{seed};
  std::vector<std::unique_ptr<copy_of_table>> copies;
  for (int i = 0; i < 25; ++i) {
    asio::steady_timer pause{rig.loop, std::chrono::milliseconds{random() % 30}};  // the moment of the snapshot
    testing_support::run(rig.loop,
                         [](asio::steady_timer& t) -> asio::awaitable<void> { co_await t.async_wait(asio::use_awaitable); }(pause));
    run.allow(40);
    auto& copy = *copies.emplace_back(std::make_unique<copy_of_table>(rig, "table:public.t"));
    const auto begun = copy.begin();
    ASSERT_TRUE(begun) << begun.error().text << begun.error().detail;
    if (random() % 2 == 0) rig.wait([&] { return copy.advance(random() % 50 + 1); });
  }
  for (auto& copy : copies) {
    run.allow(40);
    rig.wait([&] { return copy->advance(); });
  }
  run.end();
  writers.clear();
  rig.catch_up(db);
  rig.shard.deliver();
  const auto table = table_text(db);
  int unseen = 0;
  for (const auto& copy : copies) {
    EXPECT_EQ(copy->why, std::nullopt) << copy->why->text;
    EXPECT_EQ(copy->wrong, "");
    EXPECT_EQ(copy->text(), table);
    unseen += copy->unseen;
  }
  std::cout << "changes that came between rows and `live`: " << unseen << '\n';
}

TEST(snapshot, joins_the_changes_of_random_writers) {
  const int rounds = std::getenv("POSTBUS_SOAK") != nullptr ? 16 : 1;
  const auto first = std::getenv("POSTBUS_SEED") ? static_cast<unsigned>(std::atol(std::getenv("POSTBUS_SEED"))) : std::random_device{}();
  cluster here{{{"max_prepared_transactions", "10"}, {"fsync", "off"}}};
  for (int round = 0; round < rounds && !testing::Test::HasFailure(); ++round) {
    const auto seed = first + 100 * static_cast<unsigned>(round);
    std::cout << "seed " << seed << '\n';
    join_random_changes(here, seed);
  }
}

TEST(snapshot, holds_once_what_the_stream_brought_before_it_was_visible) {
  cluster here;
  database db{here};
  db.psql("create table t(id int primary key, v int); select postbus.watch('t'); insert into t values (1, 1)");
  snapshot_rig rig{db};
  {
    copy_of_table first{rig, "table:public.t"};  // a table's first snapshot waits for whoever writes
    ASSERT_TRUE(first.begin());
    rig.wait([&] { return first.advance() && rig.fills == 0; });
  }
  session pending{db.url()};
  std::jthread writer;
  const absent_standby waited_for{here};  // goes before the writer is joined
  writer = std::jthread{[&] { pending.psql("insert into t values (2, 2)"); }};
  rig.wait([&] { return rig.events("table:public.t").size() == 1; });
  EXPECT_EQ(table_text(db), "1=1 ") << "streamed and not visible";
  copy_of_table copy{rig, "table:public.t"};
  ASSERT_TRUE(copy.begin());
  rig.wait([&] { return copy.advance(); });
  EXPECT_EQ(copy.text(), "1=1 2=2 ");
  EXPECT_EQ(copy.unseen, 1);
  waited_for.forget();
  writer.join();
  db.psql("update t set v = 3 where id = 2");
  rig.wait([&] { return copy.text() == "1=1 2=3 "; });
  EXPECT_EQ(copy.wrong, "");
  // Whoever resumes from `live` gets the update and not the insert again.
  const auto later = rig.hub.history("table:public.t", copy.live_at);
  ASSERT_EQ(later.events.size(), 1u);
  EXPECT_EQ(later.events[0]->kind, bus::kind::update);
  copy_of_table after{rig, "table:public.t"};
  ASSERT_TRUE(after.begin());
  rig.wait([&] { return after.advance(); });
  EXPECT_EQ(after.text(), "1=1 2=3 ");
  EXPECT_EQ(after.unseen, 0);
}

TEST(snapshot, a_slow_reader_holds_no_transaction) {
  database db;
  db.psql(
      "create table t(id int primary key, v int, big text); select postbus.watch('t');"
      "insert into t select i, i, repeat('x', 1000) from generate_series(1, 5000) i; insert into t values (0, 0, repeat('y', 10000000)), "
      "(-1, -1, E'a\\tb\\n\\\\\\b')");
  snapshot_rig rig{db, [](snapshots::settings& s) { s.memory = 100'000; }};
  copy_of_table slow{rig, "table:public.t"};
  ASSERT_TRUE(slow.begin());
  EXPECT_FALSE(slow.advance(1));
  rig.wait([&] { return rig.fills == 0; });
  EXPECT_EQ(db.psql("select count(*) from pg_stat_activity where application_name = 'postbus snapshot'"), "0");
  db.psql("delete from t where id = 5000");
  rig.wait([&] { return slow.advance(); });
  rig.catch_up(db);
  rig.shard.deliver();
  EXPECT_EQ(slow.wrong, "");
  EXPECT_EQ(slow.text(), table_text(db));
}

TEST(snapshot, is_shared_while_it_is_filled) {
  database db;
  db.psql(
      "create table t(id int primary key, v int); select postbus.watch('t'); insert into t select i, i from generate_series(1, 1000) i");
  snapshot_rig rig{db, [](snapshots::settings& s) { s.shared_for = 1h; }};
  std::vector<std::unique_ptr<copy_of_table>> copies;
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(copies.emplace_back(std::make_unique<copy_of_table>(rig, "table:public.t"))->begin());
  EXPECT_EQ(rig.fills, 1);
  db.psql("update t set v = 0");
  for (auto& c : copies) rig.wait([&] { return c->advance(); });
  rig.catch_up(db);
  rig.shard.deliver();
  for (auto& c : copies) EXPECT_EQ(c->text(), table_text(db));
  const auto progress = rig.rows->under_way();
  ASSERT_EQ(progress.size(), 1u);
  EXPECT_EQ(progress[0].rows, 1000u);
  EXPECT_TRUE(progress[0].complete);
}

TEST(snapshot, tells_in_metrics_what_is_under_way) {
  const auto gauge = [](metrics::gauge of) { return metrics::value(of); };
  database db;
  db.psql("create table t(id int primary key, v int); create table u(id int primary key, v int); select postbus.watch('u')");
  snapshot_rig rig{db, [](snapshots::settings& s) { s.at_once = 1; }};
  const auto rows_before = metrics::value(metrics::counter::snapshot_rows);
  session early{db.url()};
  early.psql("begin; insert into t select i, i from generate_series(1, 100) i");  // the first one waits for its end
  db.psql("select postbus.watch('t')");
  copy_of_table t{rig, "table:public.t"}, u{rig, "table:public.u"};
  int begun = 0;
  for (auto* const copy : {&t, &u}) {
    asio::co_spawn(rig.loop, rig.rows->open(copy->channel, nullptr), [&, copy](std::exception_ptr, auto opened) {
      copy->given = std::make_unique<gateway::snapshot_rows>(std::move(opened).value(), [copy] { ++copy->rung; });
      ++begun;
    });
    rig.wait([&] { return gauge(metrics::gauge::snapshots_reading) == 1 && gauge(metrics::gauge::snapshots_waiting) == (copy == &u); });
  }
  early.psql("commit");
  rig.wait([&] { return begun == 2 && rig.fills == 0; });
  EXPECT_EQ(gauge(metrics::gauge::snapshots_reading), 0);
  EXPECT_EQ(gauge(metrics::gauge::snapshots_waiting), 0);
  EXPECT_GT(gauge(metrics::gauge::snapshot_bytes), 100) << "nobody has taken them yet";
  rig.wait([&] { return t.advance() && u.advance(); });
  EXPECT_EQ(gauge(metrics::gauge::snapshot_bytes), 0);
  EXPECT_EQ(metrics::value(metrics::counter::snapshot_rows), rows_before + 100);
}

TEST(snapshot, has_what_was_written_before_the_table_was_watched) {
  database db;
  db.psql("create table t(id int primary key, v int)");
  snapshot_rig rig{db, [](snapshots::settings& s) { s.patience = 300ms; }};
  session early{db.url()};
  early.psql("begin; insert into t values (1, 1)");
  db.psql("select postbus.watch('t')");
  const auto refused = rig.open("table:public.t");
  EXPECT_NE(refused.error().text.find("before it was watched: pid"), std::string::npos) << refused.error().text;
  early.psql("commit");
  copy_of_table copy{rig, "table:public.t"};
  ASSERT_TRUE(copy.begin());
  rig.wait([&] { return copy.advance(); });
  EXPECT_EQ(copy.text(), "1=1 ");
  early.psql("begin; insert into t values (2, 2)");
  copy_of_table beside{rig, "table:public.t"};
  ASSERT_TRUE(beside.begin()) << "whoever began behind the feed's start is not waited for";
  early.psql("commit");
  rig.wait([&] { return beside.advance(); });
  rig.wait([&] { return beside.text() == "1=1 2=2 "; });
}

TEST(snapshot, says_why_there_is_none) {
  database db;
  db.psql(
      "create table t(id int primary key, v int); create table other(id int primary key, v int); create table large(id int primary key, v "
      "int);"
      "select postbus.watch('t'), postbus.watch('large'); insert into large select i, i from generate_series(1, 100000) i");
  snapshot_rig rig{db, [](snapshots::settings& s) {
                     s.bytes = 1'000'000;
                     s.patience = 200ms;
                   }};
  EXPECT_EQ(rig.open("table:public.other").error().code, errc::not_watched);
  copy_of_table large{rig, "table:public.large"};
  const auto begun = large.begin();
  if (begun) rig.wait([&] { return large.advance(); });
  const auto& too_large = begun ? *large.why : begun.error();
  EXPECT_EQ(too_large.code, errc::too_large);
  EXPECT_NE(too_large.text.find("1000000 bytes"), std::string::npos);
  large.given.reset();
  rig.wait([&] { return rig.fills == 0; });
  EXPECT_EQ(rig.open("table:public.large").error().code, errc::too_large);
  EXPECT_EQ(rig.fills, 0) << "it is not copied again to find out the same";
  EXPECT_TRUE(rig.open("table:public.t"));
  rig.wait([&] { return rig.fills == 0; });
  {
    session altering{db.url()};
    altering.psql("begin; lock table t in access exclusive mode");
    const auto locked = rig.open("table:public.t");
    EXPECT_NE(locked.error().text.find("is locked"), std::string::npos) << locked.error().text;
  }
  db.psql("drop table t");
  EXPECT_EQ(rig.open("table:public.t").error().code, errc::not_watched);
}

TEST(snapshot, names_the_grant_that_is_missing) {
  database db;
  db.psql(
      "create table t(id int primary key, v int); select postbus.watch('t');"
      "create role narrow login password 'x'; grant usage on schema postbus to narrow; grant select on postbus.watched_tables to narrow");
  snapshot_rig rig{db, [&](snapshots::settings& s) { s.conninfo = db.url_as("narrow", "x"); }};
  const auto refused = rig.open("table:public.t");
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().text.find("grant select on public.t to narrow"), std::string::npos) << refused.error().text;
  db.psql("grant select on t to narrow");
  EXPECT_TRUE(rig.open("table:public.t"));
  rig.wait([&] { return rig.fills == 0; });
  db.psql("alter table t enable row level security");
  const auto hidden = rig.open("table:public.t");
  EXPECT_EQ(hidden.error().code, errc::conflict);
  EXPECT_NE(hidden.error().text.find("BYPASSRLS"), std::string::npos) << hidden.error().text;
  db.psql("drop owned by narrow; drop role narrow");
}

TEST(snapshot, starts_over_when_its_session_dies) {
  database db;
  db.psql(
      "create table t(id int primary key, v int, pad text); select postbus.watch('t'); insert into t select i, i, repeat('x', 500) from "
      "generate_series(1, 100000) i");
  snapshot_rig rig{db};
  copy_of_table copy{rig, "table:public.t"};
  ASSERT_TRUE(copy.begin());
  // The loop stands still meanwhile, so the rows cannot all have come.
  EXPECT_EQ(db.psql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postbus snapshot'"), "t");
  rig.wait([&] { return copy.advance(); });
  ASSERT_TRUE(copy.why);
  EXPECT_FALSE(copy.live);
  copy_of_table again{rig, "table:public.t"};
  ASSERT_TRUE(again.begin());
  rig.wait([&] { return again.advance(); });
  EXPECT_EQ(again.text(), table_text(db));
}

TEST(snapshot, is_refused_when_history_does_not_reach_back) {
  database db;
  db.psql("create table t(id int primary key, v int, pad text); select postbus.watch('t'); insert into t values (1, 1)");
  snapshot_rig rig{db, {}, {.history_bytes = 64 * 1024}};
  copy_of_table copy{rig, "table:public.t"};
  ASSERT_TRUE(copy.begin());
  rig.wait([&] { return rig.fills == 0; });
  db.psql("insert into t select i, i, repeat('x', 100) from generate_series(2, 3000) i");
  rig.catch_up(db);
  EXPECT_TRUE(copy.advance());
  ASSERT_TRUE(copy.why) << "and not silently without what is gone";
  EXPECT_EQ(copy.why->code, errc::start_over);
}

}  // namespace
}  // namespace postbus::feeds
