#include <gtest/gtest.h>

#include "postgres/embedded_server.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

TEST(restart_delay, doubles_to_five_seconds_and_starts_anew_after_a_minute_of_health) {
  restart_delay delay;
  EXPECT_EQ(delay.after(0s), 100ms);
  EXPECT_EQ(delay.after(10s), 200ms);
  for (int i = 0; i < 10; ++i) EXPECT_LE(delay.after(1s), 5s);
  EXPECT_EQ(delay.after(1s), 5s);
  EXPECT_EQ(delay.after(60s), 100ms);
}

}  // namespace
}  // namespace postbus::postgres
