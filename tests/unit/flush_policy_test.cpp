#include "changes/flush_policy.hpp"

#include <gtest/gtest.h>

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;

constexpr flush_policy::timing timing{.late = 20ms, .every = 5ms, .quiet = 5s, .distrust = 30s};
const steady::time_point t0{1000s};

TEST(flush_policy, a_prompt_commit_starts_nothing) {
  flush_policy policy{timing};
  EXPECT_FALSE(policy.arrived(t0, 19ms, true));
  EXPECT_FALSE(policy.polling());
}

TEST(flush_policy, a_late_commit_behind_others_starts_nothing) {
  flush_policy policy{timing};
  EXPECT_FALSE(policy.arrived(t0, 150ms, false));
}

TEST(flush_policy, a_late_commit_on_an_idle_stream_starts_polling_at_once) {
  flush_policy policy{timing};
  EXPECT_TRUE(policy.arrived(t0, 150ms, true));
  EXPECT_EQ(policy.next(), t0);
  EXPECT_FALSE(policy.arrived(t0, 150ms, true)) << "started once";
  policy.polled(t0 + 1ms, true);
  EXPECT_EQ(policy.next(), t0 + 6ms);
}

TEST(flush_policy, ends_when_nothing_was_found_for_a_while) {
  flush_policy policy{timing};
  policy.arrived(t0, 150ms, true);
  policy.polled(t0 + 4s, true);
  policy.polled(t0 + 8999ms, false);
  EXPECT_TRUE(policy.polling());
  policy.polled(t0 + 9s, false);
  EXPECT_FALSE(policy.polling());
  EXPECT_TRUE(policy.arrived(t0 + 10s, 150ms, true)) << "it helped, so it is used again at once";
}

TEST(flush_policy, a_false_alarm_is_not_believed_again_soon) {
  flush_policy policy{timing};
  policy.arrived(t0, 150ms, true);
  policy.polled(t0 + 5s, false);
  EXPECT_FALSE(policy.polling());
  EXPECT_FALSE(policy.arrived(t0 + 34s, 150ms, true));
  EXPECT_TRUE(policy.arrived(t0 + 35s, 150ms, true));
}

}  // namespace
}  // namespace postbus::changes
