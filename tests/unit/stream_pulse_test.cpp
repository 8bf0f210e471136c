#include "postgres/stream_pulse.hpp"

#include <gtest/gtest.h>

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;
using action = stream_pulse::action;

constexpr stream_pulse::timing timing{.feedback_every = 3s, .silence = 2s, .answer_within = 6s};
const steady::time_point t0{1000s};

TEST(stream_pulse, feedback_flows_while_data_pours_in) {
  stream_pulse pulse{t0, timing};
  int sent = 0;
  for (auto now = t0; now < t0 + 30s; now += 100ms) {
    pulse.heard(now);
    const auto due = pulse.due(now);
    EXPECT_TRUE(due == action::none || due == action::feedback);
    sent += due == action::feedback;
  }
  EXPECT_EQ(sent, 9);
}

TEST(stream_pulse, answers_a_request_at_once_and_once) {
  stream_pulse pulse{t0, timing};
  pulse.heard(t0);
  EXPECT_EQ(pulse.due(t0), action::none);
  pulse.requested(t0, false);
  EXPECT_LE(pulse.next(), t0);
  EXPECT_EQ(pulse.due(t0), action::feedback);
  EXPECT_EQ(pulse.due(t0), action::none);
}

TEST(stream_pulse, a_server_that_asks_again_as_soon_as_it_is_answered_is_left) {
  stream_pulse pulse{t0, timing};
  auto now = t0;
  for (int i = 1; i < timing.insistent; ++i) {
    pulse.requested(now += 10ms, true);
    EXPECT_EQ(pulse.due(now), action::feedback);
  }
  pulse.requested(now += 10ms, true);
  EXPECT_EQ(pulse.due(now), action::leave);
}

TEST(stream_pulse, one_that_we_have_told_all_is_answered_for_ever) {
  stream_pulse pulse{t0, timing};
  auto now = t0;
  for (int i = 0; i < 100; ++i) {
    pulse.requested(now += 10ms, false);
    EXPECT_EQ(pulse.due(now), action::feedback);
  }
}

TEST(stream_pulse, questions_that_were_not_answered_yet_are_one) {
  stream_pulse pulse{t0, timing};
  for (int i = 0; i < 100; ++i) pulse.requested(t0 + 10ms, true);
  EXPECT_EQ(pulse.due(t0 + 10ms), action::feedback);
}

TEST(stream_pulse, one_that_asks_now_and_then_is_answered_for_ever) {
  stream_pulse pulse{t0, timing};
  auto now = t0;
  for (int i = 0; i < 100; ++i) {
    pulse.requested(now += timing.at_once, true);
    pulse.heard(now);
    EXPECT_EQ(pulse.due(now), action::feedback);
  }
}

TEST(stream_pulse, a_silent_server_is_asked_and_then_given_up) {
  stream_pulse pulse{t0, timing};
  EXPECT_EQ(pulse.next(), t0 + 2s);
  EXPECT_EQ(pulse.due(t0 + 1s), action::none);
  EXPECT_EQ(pulse.due(t0 + 2s), action::question);
  EXPECT_EQ(pulse.due(t0 + 5s), action::feedback);
  EXPECT_EQ(pulse.next(), t0 + 8s);
  EXPECT_EQ(pulse.due(t0 + 8s), action::give_up);
}

TEST(stream_pulse, any_frame_is_an_answer) {
  stream_pulse pulse{t0, timing};
  EXPECT_EQ(pulse.due(t0 + 2s), action::question);
  pulse.heard(t0 + 7s);
  EXPECT_EQ(pulse.due(t0 + 8s), action::feedback);
  EXPECT_EQ(pulse.due(t0 + 9s), action::question);
}

TEST(stream_pulse, a_process_that_slept_asks_before_it_gives_up) {
  stream_pulse pulse{t0, timing};
  EXPECT_EQ(pulse.due(t0 + 3600s), action::question);
}

}  // namespace
}  // namespace postbus::postgres
