#include "postgres/post_queue.hpp"

#include <gtest/gtest.h>

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

const steady::time_point t0{1000s};

post_queue queue_of(std::initializer_list<std::size_t> payload_sizes) {
  post_queue queue;
  auto deadline = t0;
  for (const auto size : payload_sizes) {
    pending_post one;
    one.payload = std::string(size, 'x');
    one.deadline = deadline += 1s;
    queue.push(std::move(one));
  }
  return queue;
}

std::vector<std::size_t> sizes(const std::vector<pending_post>& posts) {
  std::vector<std::size_t> all;
  for (const auto& p : posts) all.push_back(p.payload.size());
  return all;
}

using list = std::vector<std::size_t>;

TEST(post_queue, takes_batches_within_the_limits_and_in_order) {
  auto queue = queue_of({1, 2, 3, 4, 5});
  const post_limits limits{.batch = 3, .batch_bytes = 8};
  EXPECT_EQ(sizes(queue.take_batch(limits)), (list{1, 2, 3}));
  EXPECT_EQ(sizes(queue.take_batch(limits)), (list{4})) << "9 bytes would be too many";
  EXPECT_EQ(sizes(queue.take_batch(limits)), (list{5}));
  EXPECT_TRUE(queue.empty());
}

TEST(post_queue, a_large_message_goes_alone) {
  auto queue = queue_of({100, 1});
  EXPECT_EQ(sizes(queue.take_batch({.batch_bytes = 10})), (list{100}));
}

TEST(post_queue, gives_up_the_late_and_only_those) {
  auto queue = queue_of({1, 2, 3});
  EXPECT_EQ(queue.deadline(), t0 + 1s);
  EXPECT_EQ(sizes(queue.take_expired(t0 + 2s)), (list{1, 2}));
  EXPECT_EQ(sizes(queue.take_expired(t0 + 2s)), list{});
  EXPECT_EQ(sizes(queue.take_all()), list{3});
}

}  // namespace
}  // namespace postbus::postgres
