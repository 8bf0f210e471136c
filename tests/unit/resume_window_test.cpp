#include "changes/resume_window.hpp"

#include <gtest/gtest.h>

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;

const steady::time_point t0{1000s};

TEST(resume_window, holds_back_by_time) {
  resume_window w{{.age = 256s, .bytes = 1'000'000}};
  w.begin(t0, 100);
  for (int second = 1; second <= 600; ++second) {
    w.applied(t0 + second * 1s, 100 + static_cast<std::uint64_t>(second));
    const auto held = w.acknowledge(t0 + second * 1s);
    if (second <= 256) {
      EXPECT_LE(held, 100u + 1) << second;
    } else {
      EXPECT_LE(held, 100u + static_cast<std::uint64_t>(second) - 256) << second;
      EXPECT_GE(held, 100u + static_cast<std::uint64_t>(second) - 260) << "exact to a 256th or so: " << second;
    }
  }
}

TEST(resume_window, holds_back_by_bytes_where_that_is_less) {
  resume_window w{{.age = 1h, .bytes = 25'600}};
  w.begin(t0, 0);
  for (std::uint64_t lsn = 10; lsn <= 1'000'000; lsn += 10) {
    w.applied(t0, lsn);
    const auto held = w.acknowledge(t0);
    EXPECT_LE(held + 25'600, std::max<std::uint64_t>(lsn, 25'600) + 10);
    if (lsn > 30'000) EXPECT_GE(held + 25'600 + 300, lsn);
  }
}

TEST(resume_window, lets_go_of_an_idle_stream) {
  resume_window w{{.age = 256s, .bytes = 1'000'000}};
  w.begin(t0, 100);
  w.applied(t0 + 1s, 500);
  EXPECT_EQ(w.acknowledge(t0 + 2s), 100u);
  for (int second = 3; second < 300; ++second) w.acknowledge(t0 + second * 1s);
  EXPECT_EQ(w.acknowledge(t0 + 300s), 500u);
}

TEST(resume_window, never_goes_back_and_can_be_given_up) {
  resume_window w{{.age = 256s, .bytes = 1'000'000}};
  w.begin(t0, 100);
  w.applied(t0 + 10s, 500);
  w.applied(t0 + 11s, 300);
  w.release();
  EXPECT_EQ(w.acknowledge(t0 + 11s), 500u);
  w.applied(t0 + 12s, 600);
  EXPECT_EQ(w.acknowledge(t0 + 12s), 500u) << "and begins anew";
}

TEST(resume_window, stays_at_a_place_before_a_bound) {
  resume_window w{{.age = 0s, .bytes = 0}};
  w.begin(t0, 100);
  for (std::uint64_t lsn = 200; lsn <= 600; lsn += 100) w.applied(t0 + 1s, lsn);
  EXPECT_EQ(w.acknowledge(t0 + 1s, 399), 300u) << "and not within what ends at 400";
  EXPECT_EQ(w.acknowledge(t0 + 2s, 399), 300u);
  EXPECT_EQ(w.acknowledge(t0 + 2s, 400), 400u);
  w.release();
  EXPECT_EQ(w.acknowledge(t0 + 2s, 400), 400u) << "giving the window up does not lift the bound";
  EXPECT_EQ(w.acknowledge(t0 + 2s), 600u);
}

}  // namespace
}  // namespace postbus::changes
