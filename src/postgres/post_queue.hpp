#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "postgres/suspend.hpp"

namespace postbus::postgres {

/** How a payload is handed to postbus.post. */
enum class post_form : std::uint8_t { text, json };

/** A message on its way to the database, and who waits for it. */
struct pending_post {
  std::string channel;
  std::string payload;
  post_form form{post_form::text};
  steady::time_point deadline{};
  resumer<result<std::uint64_t>> resume{};
  std::size_t bytes() const { return channel.size() + payload.size(); }
};

struct post_limits {
  std::size_t queued{10'000};              ///< messages waiting or on their way; one more is refused
  std::size_t queued_bytes{64u << 20};     ///< their bytes
  std::size_t batch{256};                  ///< messages that share a transaction
  std::size_t batch_bytes{1u << 20};       ///< their bytes; a larger message goes alone
  steady::duration deadline{std::chrono::seconds{5}};
};

/** The messages of some channels in order of arrival, which is the order of their deadlines too. I/O-free. */
class post_queue {
public:
  bool empty() const { return waiting_.empty(); }
  void push(pending_post one) { waiting_.push_back(std::move(one)); }
  /** When the first in the queue gives up. */
  steady::time_point deadline() const { return waiting_.front().deadline; }
  /** The longest run from the front that keeps the limits, and at least one. */
  std::vector<pending_post> take_batch(const post_limits& limits);
  /** Those whose deadline has passed. */
  std::vector<pending_post> take_expired(steady::time_point now);
  std::vector<pending_post> take_all();

private:
  std::deque<pending_post> waiting_;
};

}  // namespace postbus::postgres
