#include "postgres/post_queue.hpp"

#include <iterator>

namespace postbus::postgres {

std::vector<pending_post> post_queue::take_batch(const post_limits& limits) {
  std::vector<pending_post> batch;
  std::size_t bytes = 0;
  while (!waiting_.empty() && batch.size() < limits.batch) {
    bytes += waiting_.front().bytes();
    if (!batch.empty() && bytes > limits.batch_bytes) break;
    batch.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return batch;
}

std::vector<pending_post> post_queue::take_expired(steady::time_point now) {
  std::vector<pending_post> taken;
  while (!waiting_.empty() && waiting_.front().deadline <= now) {
    taken.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return taken;
}

std::vector<pending_post> post_queue::take_all() {
  std::vector<pending_post> taken{std::make_move_iterator(waiting_.begin()), std::make_move_iterator(waiting_.end())};
  waiting_.clear();
  return taken;
}

}  // namespace postbus::postgres
