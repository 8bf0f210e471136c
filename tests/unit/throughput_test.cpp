#include <gtest/gtest.h>

#include "gateway/throughput.hpp"

namespace postbus::gateway {
namespace {

using namespace std::chrono_literals;

constexpr steady::time_point start{std::chrono::hours{5}};

TEST(throughput, is_nothing_while_nothing_flows) {
  const flow counted{.events_in = 700, .events_out = 800, .posts = 900};  // from before
  const throughput flowing{start, counted};
  for (const auto after : {0ms, 1ms, 60'000ms}) {
    const auto rates = flowing.until(start + after, counted);
    EXPECT_EQ(rates.events_in, 0);
    EXPECT_EQ(rates.events_out, 0);
    EXPECT_EQ(rates.posts, 0);
  }
}

TEST(throughput, does_not_make_much_of_the_first_moment) {
  const throughput flowing{start, {}};
  EXPECT_DOUBLE_EQ(flowing.until(start + 1ms, {.events_in = 3, .events_out = 0, .posts = 0}).events_in, 3);
  EXPECT_DOUBLE_EQ(flowing.until(start + 2s, {.events_in = 3, .events_out = 0, .posts = 0}).events_in, 1.5);
}

TEST(throughput, wants_a_sample_a_second_and_forgets_what_is_older_than_the_window) {
  throughput flowing{start, {}};
  flow counted;
  steady::time_point now = start;
  const auto run = [&](int seconds, std::uint64_t in, std::uint64_t out, std::uint64_t posts) {
    for (int i = 0; i < seconds * 10; ++i) {
      now += 100ms;
      counted.events_in += in / 10, counted.events_out += out / 10, counted.posts += posts / 10;
      EXPECT_EQ(flowing.due(now), i % 10 == 9) << i;
      if (flowing.due(now)) flowing.sample(now, counted);
    }
  };
  run(20, 100, 5000, 10);
  auto rates = flowing.until(now, counted);
  EXPECT_DOUBLE_EQ(rates.events_in, 100);
  EXPECT_DOUBLE_EQ(rates.events_out, 5000);
  EXPECT_DOUBLE_EQ(rates.posts, 10);
  run(2, 0, 0, 0);
  EXPECT_DOUBLE_EQ(flowing.until(now, counted).events_in, 60) << "three of five seconds";
  run(3, 0, 0, 0);
  EXPECT_EQ(flowing.until(now, counted).events_out, 0);
}

}  // namespace
}  // namespace postbus::gateway
