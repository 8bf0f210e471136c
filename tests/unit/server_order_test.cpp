#include "postgres/server_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace postbus::postgres {
namespace {

TEST(server_order, a_restart_is_granted_once) {
  server_order order;
  EXPECT_FALSE(order.given() || order.stopped() || order.take_restart());
  order.restart();
  EXPECT_TRUE(order.given());
  EXPECT_TRUE(order.take_restart());
  EXPECT_FALSE(order.given() || order.take_restart());
}

TEST(server_order, a_stop_is_for_good) {
  server_order order;
  order.stop();
  order.restart();
  EXPECT_FALSE(order.take_restart());
  EXPECT_TRUE(order.given() && order.stopped());
}

TEST(server_order, a_stop_in_the_instant_in_which_a_restart_is_granted_is_not_lost) {
  constexpr int rounds = 10'000;
  std::vector<server_order> orders(rounds);
  for (auto& order : orders) order.restart();
  std::atomic<int> there{-1}, go{-1};
  std::thread supervisor{[&] {
    for (int i = 0; i < rounds; ++i) {
      there = i;
      while (go != i) std::this_thread::yield();
      orders[static_cast<std::size_t>(i)].take_restart();
    }
  }};
  for (int i = 0; i < rounds; ++i) {
    while (there != i) std::this_thread::yield();
    go = i;
    for (volatile int wait = i % 50; wait > 0;) wait = wait - 1;  // now before, now behind, and some times within it
    orders[static_cast<std::size_t>(i)].stop();
  }
  supervisor.join();
  EXPECT_EQ(std::ranges::count_if(orders, &server_order::stopped), rounds);
}

}  // namespace
}  // namespace postbus::postgres
