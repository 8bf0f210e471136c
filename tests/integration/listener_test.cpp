// The listening session against a real server: what arrives, and what is told when the server, its process or the network fails.
#include "postgres/listener.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/proxy.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::cluster;
using testing_support::run;
using testing_support::until;

/** A listener on a loop of its own, and what it told, in order. */
struct listening {
  /** An empty `url` goes to the shared cluster through the relay. */
  explicit listening(listen_limits limits = {}, std::string url = cluster::shared().url())
      : network{loop.get_executor(), cluster::shared().server().port()},
        it{loop.get_executor(),
           {.session = {.conninfo = url.empty() ? through_network() : std::move(url), .application_name = "postbus listener test"},
            .limits = limits},
           {.on_notification = [this](const notification& n) { told.push_back(fmt::format("{}={}", n.channel, n.payload)); },
            .on_alive = [this] { ++alive; },
            .on_lost =
                [this](const error& why) {
                  reason = why;
                  if (when_lost) when_lost();
                  ++losses;
                  told.push_back("lost");
                },
            .on_back =
                [this] {
                  ++backs;
                  told.push_back("back");
                  if (when_back) when_back();
                }}} {
    asio::co_spawn(loop, it.run(), [this](std::exception_ptr e) {
      ended = true;
      if (e) std::rethrow_exception(e);
    });
  }
  ~listening() {
    it.stop();
    wait_until([this] { return ended; });
  }

  void wait_until(std::function<bool()> holds) { run(loop, until(std::move(holds))); }
  void wait_for(std::string what) {
    wait_until([this, what = std::move(what)] { return has(what); });
  }
  bool has(const std::string& what) const { return std::ranges::find(told, what) != told.end(); }

  result<> try_listen(std::string channel) {
    std::optional<result<>> outcome;
    asio::co_spawn(loop, it.listen(std::move(channel)), [&](std::exception_ptr, result<> r) { outcome = std::move(r); });
    wait_until([&] { return outcome.has_value(); });
    return *outcome;
  }
  void listen(const std::string& channel) {
    while (!try_listen(channel)) wait_until([this] { return it.connected(); });
  }

  std::string through_network() const {
    return fmt::format("postgresql://postgres:{}@127.0.0.1:{}/postbus", cluster::shared().server().password(), network.port());
  }

  asio::io_context loop;
  testing_support::proxy network;
  std::vector<std::string> told;
  std::optional<error> reason;
  int alive{}, losses{}, backs{};
  std::function<void()> when_lost, when_back;
  bool ended{};
  listener it;
};

std::string sessions() {
  return cluster::shared().psql("select count(*) from pg_stat_activity where application_name = 'postbus listener test'");
}
int backend() {
  return std::stoi(cluster::shared().psql("select pid from pg_stat_activity where application_name = 'postbus listener test'"));
}
void notify(std::string_view channel, std::string_view payload) {
  cluster::shared().psql(fmt::format("select pg_notify({}, {})", quote_literal(channel), quote_literal(payload)));
}
TEST(listener, hears_any_name_and_payload_that_notify_carries) {
  listening l;
  const std::string longest(63, 'c');
  for (const auto& name : {std::string{"workA"}, std::string{"with \"quotes\" and ; and 'these'"}, std::string{"Grüße 🙂"}, longest}) {
    l.listen(name);
    l.told.clear();
    notify(name, "");
    notify(name, "🙂 \\ ' \" \n");
    notify(name, std::string(7999, 'x'));
    l.wait_until([&] { return l.told.size() == 3; });
    EXPECT_THAT(l.told, ElementsAre(name + "=", name + "=🙂 \\ ' \" \n", name + "=" + std::string(7999, 'x')));
  }
  EXPECT_EQ(sessions(), "1");
}

TEST(listener, keeps_commit_order_and_skips_what_was_rolled_back) {
  listening l;
  l.listen("a");
  l.listen("b");
  cluster::shared().psql("begin; notify a, '1'; notify b, '2'; notify a, '3'; commit");
  cluster::shared().psql("begin; notify a, 'never'; rollback");
  cluster::shared().psql("notify b, '4'");
  l.wait_until([&] { return l.told.size() == 4; });
  EXPECT_THAT(l.told, ElementsAre("a=1", "b=2", "a=3", "b=4"));
}

TEST(listener, refuses_names_that_listen_cannot_take) {
  listening l;
  for (const auto& name : {std::string{}, std::string(64, 'c'), std::string{"a\0b", 3}, std::string{"\xff"}}) {
    EXPECT_EQ(l.try_listen(name).error().code, errc::invalid_channel);
  }
  EXPECT_TRUE(l.it.channels().empty());
}

TEST(listener, drops_a_channel_when_nobody_came_back) {
  listening l{{.linger = 100ms}};
  l.listen("kept");
  l.listen("left");
  const auto generation = l.it.listening_generation("left");
  l.it.unlisten("left");
  l.listen("left");
  EXPECT_EQ(l.it.listening_generation("left"), generation) << "continuity";
  l.it.unlisten("left");
  l.wait_until([&] { return l.it.channels().size() == 1; });
  EXPECT_EQ(l.it.listening(), 1u);
  notify("left", "unheard");
  notify("kept", "heard");
  l.wait_for("kept=heard");
  EXPECT_THAT(l.told, ElementsAre("kept=heard"));
}

TEST(listener, ten_thousand_channels_on_one_session) {
  listening l;
  l.listen("first");
  constexpr std::size_t count = 10'000;
  std::size_t listened = 0;
  const auto began = steady::now();
  for (std::size_t i = 0; i < count; ++i) {
    asio::co_spawn(l.loop, l.it.listen(fmt::format("room:{}", i)),
                   [&](std::exception_ptr, const result<>& done) { listened += done.has_value(); });
  }
  l.wait_until([&] { return listened == count; });
  RecordProperty("listen_ms", static_cast<int>((steady::now() - began) / 1ms));
  EXPECT_EQ(l.it.listening(), count + 1);
  EXPECT_EQ(sessions(), "1");
  for (const auto* name : {"room:0", "room:4711", "room:9999", "first"}) notify(name, "x");
  l.wait_until([&] { return l.told.size() == 4; });
  EXPECT_THAT(l.told, ElementsAre("room:0=x", "room:4711=x", "room:9999=x", "first=x"));
  for (std::size_t i = 0; i < count; ++i) l.it.unlisten(fmt::format("room:{}", i));
}

TEST(listener, never_holds_a_transaction) {
  listening l{{.idle = 10ms}};
  l.listen("a");
  EXPECT_EQ(cluster::shared().psql(
                "select count(*) from pg_stat_activity where application_name = 'postbus listener test' and xact_start is not null"),
            "0");
}

TEST(listener, tells_the_gap_after_everything_is_listened_again) {
  listening l;
  for (const auto* name : {"a", "b", "c"}) l.listen(name);
  const auto before = l.it.listening_generation("a");
  // Notified in the very moment of on_back: heard on every channel, or on_back came too early.
  l.when_back = [] {
    for (const auto* name : {"a", "b", "c"}) notify(name, "after");
  };
  cluster::shared().restart();
  l.wait_for("c=after");
  EXPECT_THAT(l.told, ElementsAre("lost", "back", "a=after", "b=after", "c=after"));
  EXPECT_EQ(sqlstate(*l.reason), "57P01");
  EXPECT_NE(l.it.listening_generation("a"), before);
  EXPECT_EQ(sessions(), "1");
}

TEST(listener, comes_back_after_its_process_was_killed) {
  listening l;
  l.listen("a");
  ::kill(backend(), SIGKILL);
  l.wait_for("back");
  notify("a", "after");
  l.wait_for("a=after");
  EXPECT_THAT(l.told, ElementsAre("lost", "back", "a=after"));
}

TEST(listener, fails_at_once_while_the_database_is_away_and_holds_nothing) {
  listening l{{}, "postgresql://nobody@127.0.0.1:1/none"};
  l.wait_for("lost");
  EXPECT_EQ(l.try_listen("a").error().code, errc::unavailable);
  EXPECT_THAT(l.it.channels(), testing::IsEmpty());
}

TEST(listener, notices_a_server_process_that_does_not_answer) {
  listening l{{.idle = 50ms, .answer = 200ms}};
  l.listen("a");
  const int stopped = backend();
  ::kill(stopped, SIGSTOP);
  l.wait_for("back");
  EXPECT_EQ(l.reason->code, errc::timed_out);
  notify("a", "after");
  l.wait_for("a=after");
  ::kill(stopped, SIGCONT);
}

TEST(listener, notices_a_half_open_connection) {
  listening l{{.idle = 50ms, .answer = 200ms}, ""};
  l.listen("half");
  l.wait_until([&, seen = l.alive] { return l.alive > seen + 1; });
  l.network.freeze();
  notify("half", "lost on the way");
  const auto last_alive = l.alive;
  l.when_lost = [&] { EXPECT_EQ(l.alive, last_alive) << "the gap begins before the message that was lost"; };
  l.wait_for("back");
  EXPECT_EQ(l.reason->code, errc::timed_out);
  notify("half", "after");
  l.wait_for("half=after");
  EXPECT_THAT(l.told, ElementsAre("lost", "back", "half=after"));
}

TEST(listener, says_that_a_hot_standby_cannot_listen) {
  cluster standby;
  std::ofstream{standby.server().folder() / "postgres" / "standby.signal"};
  standby.restart();
  listening l{{}, standby.url()};
  const auto refused = l.try_listen("a");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unavailable);
  EXPECT_THAT(refused.error().text, HasSubstr("standby"));
  EXPECT_THAT(l.told, ElementsAre("lost"));
  standby.psql("select pg_promote()");
  l.listen("a");
  standby.psql("notify a, 'promoted'");
  l.wait_for("a=promoted");
}

/** The connection is cut at the first reply, the second, … of a whole scenario, until the scenario runs without a cut. */
TEST(listener, comes_through_a_cut_at_any_reply) {
  for (std::size_t cut = 1;; ++cut) {
    SCOPED_TRACE(cut);
    listening l{{.linger = 1ms, .idle = 20ms}, ""};
    l.network.cut_at_reply(cut);
    l.listen("a");
    l.listen("b");
    l.it.unlisten("b");
    l.wait_until([&] { return l.it.channels().size() == 1; });
    l.listen("c");
    const auto pings = l.network.replies() + 2;
    l.wait_until([&] { return l.network.replies() >= pings && l.losses == l.backs && l.it.listening() == 2; });
    // Both arrive, or the listener is told of the gap they are in; without a cut they arrive.
    for (int round = 0, before = -1; before != l.losses; ++round) {
      // What is notified within an outage is in that outage's gap. Counted here, because the loop may turn once more before the wait returns.
      l.wait_until([&] {
        before = l.losses;
        return l.losses == l.backs;
      });
      const auto payload = std::to_string(round);
      notify("a", payload);
      notify("c", payload);
      l.wait_until([&] { return (l.has("a=" + payload) && l.has("c=" + payload)) || (l.losses > before && l.backs == l.losses); });
    }
    EXPECT_LE(l.losses, 1);
    if (l.losses == 0) {
      EXPECT_GT(cut, 5u);
      break;
    }
  }
}

}  // namespace
}  // namespace postbus::postgres
