#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <string>

#include "postgres/pool.hpp"
#include "postgres/post_queue.hpp"

namespace postbus::postgres {

/**
 * Posts messages through a pool's sessions. What arrives while a session is busy shares the next transaction and round
 * trip, so that throughput grows with load: one WAL flush then serves hundreds of messages.
 *
 * Order: messages of one channel are posted in the order of post() calls. One message's refusal never touches another:
 * the transaction they shared is rolled back, and each is posted again in a transaction of its own.
 *
 * Outcomes: success is a commit. Failure means "not posted", except where the text says that the message may have been
 * posted: the session broke, or the deadline passed, after it was sent.
 * All members on the executor's thread only.
 */
class poster {
public:
  /** `lanes` batches at most are on their way at once, each on a session of its own. */
  poster(asio::any_io_executor executor, pool& sessions, post_limits limits = {}, std::size_t lanes = 4);
  poster(const poster&) = delete;
  poster& operator=(const poster&) = delete;
  ~poster();  ///< run() must have returned

  /** Serves until stop(). Spawn it once. */
  asio::awaitable<void> run();
  /** Refuses new messages; run() returns once what is in the queue has been posted, or its deadlines have passed. */
  void stop();

  /**
   * Posts one message and returns the database's insert LSN after the commit; the event's position is at or before it.
   * Errors as for_client() makes them of what postbus.post refuses; errc::too_many: the queue is full; errc::unavailable,
   * errc::timed_out.
   */
  asio::awaitable<result<std::uint64_t>> post(std::string channel, post_form form, std::string payload);

  /** Messages waiting or on their way. */
  std::size_t queued() const;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus::postgres
