#include "postgres/backoff.hpp"

#include <gtest/gtest.h>

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

TEST(backoff, doubles_to_its_bound_within_the_upper_half) {
  backoff waits{42, {.first = 100ms, .most = 1s}};
  for (const auto longest : {100ms, 200ms, 400ms, 800ms, 1000ms, 1000ms, 1000ms}) {
    const auto wait = waits.next();
    EXPECT_GE(wait, longest / 2);
    EXPECT_LE(wait, longest);
  }
  EXPECT_EQ(waits.failures(), 7u);
}

TEST(backoff, starts_over_after_a_success) {
  backoff waits{42, {.first = 100ms, .most = 1s}};
  for (int i = 0; i < 5; ++i) waits.next();
  waits.succeeded();
  EXPECT_LE(waits.next(), 100ms);
}

TEST(backoff, gateways_spread) { EXPECT_NE(backoff{1}.next(), backoff{2}.next()); }

TEST(backoff, never_overflows) {
  backoff waits{7};
  for (int i = 0; i < 200; ++i) EXPECT_LE(waits.next(), 5s);
}

}  // namespace
}  // namespace postbus::postgres
