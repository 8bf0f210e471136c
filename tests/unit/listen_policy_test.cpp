#include "postgres/listen_policy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

/** The server's side of the policy's commands, and a clock that only the test moves. */
struct world {
  explicit world(listen_limits given = {}) : limits{given}, policy{given, 7} {}

  /** Carries out one action; false when the policy would wait. `fail` says that it is to go wrong. */
  bool step(bool fail = false) {
    const auto action = policy.next(now);
    if (const auto* wait = std::get_if<listen_policy::wait>(&action)) {
      until = wait->until;
      return false;
    }
    if (fail) {
      server.clear();
      lost();
      return true;
    }
    if (const auto* run = std::get_if<listen_policy::run>(&action)) {
      commands.push_back(run->sql);
      carry_out(run->sql);
      policy.ran(now);
    } else {
      ++opens;
      policy.opened(now);
    }
    if (policy.take_end_of_outage()) ++backs;
    return true;
  }
  void settle() {
    while (step()) {
    }
  }
  void lost() {
    server.clear();
    if (policy.lost(now)) ++losses;
  }
  void carry_out(std::string_view sql) {
    while (!sql.empty() && sql.contains(';') && sql.contains('"')) {
      const auto command = sql.substr(0, sql.find(';'));
      sql.remove_prefix(command.size() + 1);
      const auto open = command.find('"');
      const std::string channel{command.substr(open + 1, command.size() - open - 2)};
      if (command.starts_with("listen "))
        server.insert(channel);
      else
        server.erase(channel);
    }
  }

  listen_limits limits;
  listen_policy policy;
  steady::time_point now{1h};
  steady::time_point until{};
  std::set<std::string> server;
  std::vector<std::string> commands;
  int opens{}, losses{}, backs{};
};

TEST(listen_policy, opens_at_once_and_listens_to_what_was_asked_meanwhile) {
  world w;
  EXPECT_TRUE(std::holds_alternative<listen_policy::open>(w.policy.next(w.now)));
  EXPECT_EQ(w.policy.listen("a"), 1u);
  w.policy.opened(w.now);
  w.settle();
  EXPECT_EQ(w.server, (std::set<std::string>{"a"}));
  EXPECT_EQ(w.policy.settled(), 1u);
  EXPECT_EQ(w.policy.listen("a"), 0u) << "heard already";
  EXPECT_EQ(w.backs, 0) << "no outage, no end of one";
}

TEST(listen_policy, does_not_count_a_listener_it_cannot_serve) {
  world w;
  EXPECT_EQ(w.policy.listen("a"), std::nullopt) << "no session yet and none being opened";
  EXPECT_FALSE(w.policy.is_wanted("a"));
}

TEST(listen_policy, batches_and_quotes) {
  world w{{.batch = 3}};
  w.settle();
  for (const auto* channel : {"a", "B", "c\"d", "e"}) EXPECT_TRUE(w.policy.listen(channel));
  w.settle();
  ASSERT_EQ(w.commands.size(), 2u);
  EXPECT_EQ(w.commands[0], R"(listen "a";listen "B";listen "c""d";)");
  EXPECT_EQ(w.commands[1], R"(listen "e";)");
  EXPECT_EQ(w.policy.listening(), 4u);
}

TEST(listen_policy, one_listen_for_many_listeners) {
  world w;
  w.settle();
  const auto first = w.policy.listen("a");
  EXPECT_EQ(w.policy.listen("a"), first);
  w.settle();
  EXPECT_EQ(w.commands.size(), 1u);
  w.policy.unlisten("a", w.now);
  w.now += w.limits.linger;
  w.settle();
  EXPECT_TRUE(w.server.contains("a")) << "one listener is left";
}

TEST(listen_policy, unlistens_when_nobody_came_back_within_the_linger) {
  world w;
  w.settle();
  w.policy.listen("a");
  w.settle();
  const auto generation = w.policy.generation("a");
  w.policy.unlisten("a", w.now);
  w.now += w.limits.linger - 1ms;
  w.settle();
  EXPECT_EQ(w.policy.listen("a"), 0u) << "still heard";
  EXPECT_EQ(w.policy.generation("a"), generation);
  w.now += 1h;
  w.settle();
  EXPECT_TRUE(w.server.contains("a"));
  w.policy.unlisten("a", w.now);
  w.settle();
  w.now += w.limits.linger;
  w.settle();
  EXPECT_FALSE(w.server.contains("a"));
  EXPECT_FALSE(w.policy.is_wanted("a"));
  EXPECT_EQ(w.policy.generation("a"), std::nullopt);
}

TEST(listen_policy, the_loop_is_woken_when_a_linger_ends) {
  world w{{.linger = 10s, .idle = 1h}};
  w.settle();
  w.policy.listen("a");
  w.settle();
  w.policy.unlisten("a", w.now);
  w.settle();
  EXPECT_EQ(w.until, w.now + 10s);
}

TEST(listen_policy, a_channel_asked_for_after_its_unlisten_is_listened_again_after_it) {
  world w{{.batch = 1}};
  w.settle();
  w.policy.listen("a");
  w.policy.listen("b");
  w.settle();
  const auto before = w.policy.generation("b");
  w.policy.unlisten("a", w.now);
  w.policy.unlisten("b", w.now);
  w.now += w.limits.linger;
  EXPECT_TRUE(w.step());  // unlistens a; b's UNLISTEN is queued
  EXPECT_NE(w.policy.listen("b"), 0u);
  w.settle();
  EXPECT_EQ(w.server, (std::set<std::string>{"b"}));
  EXPECT_NE(w.policy.generation("b"), before) << "continuity was broken";
}

TEST(listen_policy, asks_a_silent_session_for_a_sign_of_life) {
  world w;
  w.settle();
  EXPECT_EQ(w.until, w.now + w.limits.idle);
  w.now += w.limits.idle - 1ms;
  w.policy.heard(w.now);
  w.now += 1ms;
  w.settle();
  EXPECT_TRUE(w.commands.empty());
  w.now += w.limits.idle;
  w.settle();
  ASSERT_EQ(w.commands.size(), 1u);
  EXPECT_TRUE(w.commands[0].starts_with("select 1"));
  EXPECT_EQ(w.until, w.now + w.limits.idle);
}

TEST(listen_policy, an_outage_ends_when_everything_is_heard_again) {
  world w{{.batch = 1}};
  w.settle();
  w.policy.listen("a");
  w.policy.listen("b");
  w.settle();
  const auto before = w.policy.generation("a");
  w.lost();
  EXPECT_EQ(w.losses, 1);
  EXPECT_EQ(w.policy.generation("a"), std::nullopt);
  w.settle();
  EXPECT_EQ(w.opens, 1) << "not before the wait is over";
  w.now = w.until;
  EXPECT_TRUE(w.step());  // opens
  EXPECT_TRUE(w.step());
  EXPECT_EQ(w.backs, 0) << "one channel is still missing";
  EXPECT_TRUE(w.step());
  EXPECT_EQ(w.backs, 1);
  EXPECT_EQ(w.server.size(), 2u);
  EXPECT_NE(w.policy.generation("a"), before);
}

TEST(listen_policy, an_outage_is_told_once) {
  world w;
  w.settle();
  w.policy.listen("a");
  w.settle();
  w.lost();
  for (int i = 0; i < 5; ++i) {
    w.settle();
    w.now = w.until;
    w.step(true);
  }
  w.settle();
  w.now = w.until;
  w.settle();
  EXPECT_EQ(w.losses, 1);
  EXPECT_EQ(w.backs, 1);
}

TEST(listen_policy, the_waits_between_attempts_grow_until_a_session_lives) {
  world w;
  w.settle();
  steady::duration longest{};
  for (int i = 0; i < 10; ++i) {
    w.lost();
    w.settle();
    longest = w.until - w.now;
    w.now = w.until;
    w.settle();
  }
  EXPECT_GE(longest, 2500ms);
  EXPECT_LE(longest, 5s);
  w.now += 10s;
  w.lost();
  w.settle();
  EXPECT_LE(w.until - w.now, 100ms);
}

/** Random requests, with a failure injected at every step in turn; whatever happened, the server ends up with what is wanted. */
TEST(listen_policy, ends_up_right_whatever_step_fails) {
  for (int failing = 0; failing < 120; ++failing) {
    world w{{.linger = 3s, .batch = 2}};
    std::mt19937 random{static_cast<unsigned>(failing)};
    std::map<std::string, int> listeners;
    std::vector<std::pair<listen_policy::ticket, std::string>> waiting;
    int steps = 0;
    const auto fail = [&] {
      for (const auto& [ticket, channel] : waiting) {
        w.policy.unlisten(channel, w.now);
        --listeners[channel];
      }
      waiting.clear();
    };
    for (int turn = 0; turn < 200; ++turn) {
      const auto channel = std::string(1, static_cast<char>('a' + random() % 6));
      if (random() % 2) {
        if (const auto ticket = w.policy.listen(channel)) {
          ++listeners[channel];
          if (*ticket) waiting.emplace_back(*ticket, channel);
        }
      } else if (std::ranges::none_of(waiting, [&](const auto& one) { return one.second == channel; }) && listeners[channel] > 0) {
        w.policy.unlisten(channel, w.now);
        --listeners[channel];
      }
      if (random() % 3 == 0) {
        const bool fails = steps++ == failing;
        if (fails) fail();
        w.step(fails);
      }
      std::erase_if(waiting, [&](const auto& one) {
        if (one.first > w.policy.settled()) return false;
        EXPECT_TRUE(w.policy.generation(one.second)) << "settled, so heard";
        return true;
      });
      w.now += std::chrono::milliseconds{random() % 1500};
    }
    for (int i = 0; i < 10; ++i) {
      w.settle();
      w.now += 5s;
    }
    w.settle();
    std::set<std::string> wanted;
    for (const auto& [channel, count] : listeners)
      if (count > 0) wanted.insert(channel);
    EXPECT_EQ(w.server, wanted) << "step " << failing << " failed";
    EXPECT_EQ(w.policy.listening(), wanted.size());
    EXPECT_EQ(w.losses, w.backs);
  }
}

}  // namespace
}  // namespace postbus::postgres
