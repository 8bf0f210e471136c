#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <memory>

#include "base/clock.hpp"

namespace postbus::postgres {

namespace asio = boost::asio;

/**
 * The socket of a session in the reactor, and the deadline of the one wait in progress. Shared with handlers that may
 * outlive the session. Never owns the socket: release() before libpq closes it.
 *
 * One timer fires at the earliest deadline it was armed for and re-arms itself for the current one, so that a wait which
 * succeeds costs no timer system call. A wait may end early: the caller checks what it waited for, then the clock.
 */
class readiness : public std::enable_shared_from_this<readiness> {
public:
  explicit readiness(const asio::any_io_executor& executor) : socket_{executor}, timer_{executor} {}

  void assign(int socket) { socket_.assign(socket); }
  /** Ends a wait in progress. */
  void release();
  /** Waits until the socket can be read, or written, or (both asked for) either. */
  asio::awaitable<void> wait(bool read, bool write, steady::time_point deadline);
  /** Ends a wait in progress, or at times the next one. */
  void cancel();
  /** Lets go of the timer too. */
  void close();

private:
  static constexpr auto none = steady::time_point::max();
  void arm();

  asio::posix::stream_descriptor socket_;
  asio::steady_timer timer_;
  steady::time_point deadline_{none};
  steady::time_point armed_for_{none};
};

}  // namespace postbus::postgres
