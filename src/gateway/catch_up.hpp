#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <functional>
#include <memory>
#include <string>

#include "bus/hub.hpp"
#include "streams/page.hpp"

namespace postbus::gateway {

class loop;

/** Lets a catch-up wait until its session has sent what it was given. Loop's thread. */
class room_signal {
public:
  explicit room_signal(const boost::asio::any_io_executor& executor) : timer_{executor, boost::asio::steady_timer::time_point::max()} {}
  boost::asio::awaitable<void> wait();
  void ring() { timer_.cancel(); }

private:
  boost::asio::steady_timer timer_;
};

/**
 * How a listener comes from the tables to the hub: the stream is read page by page, each asked for while the one before is
 * sent and taken when that has left, until the hub's history reaches back to what has been read. All calls come on the
 * loop's thread and none once `alive` says no. No database session is held between two pages.
 */
struct catch_up_steps {
  std::function<bool()> alive;
  std::function<bool()> has_room;  ///< what was taken before has been sent; `room` is rung when that becomes so
  std::shared_ptr<room_signal> room;
  std::function<void(const streams::page&)> take;
  /** Subscribes after this position. False where history no longer reaches back to it: reading goes on. */
  std::function<bool(const bus::position&)> join;
  std::function<void()> not_kept;  ///< the channel is no stream
  std::function<void(const error&)> failed;
  std::size_t most{SIZE_MAX};  ///< messages a page
};
boost::asio::awaitable<void> catch_up(loop& home, std::string channel, bus::start from, catch_up_steps steps);

/** Bytes of a replay that are taken from history at once, when what was taken before has been sent. */
inline constexpr std::size_t replay_at_once = 64 * 1024;

/** Where a listener that has come as far as `given` goes on in the tables. */
bus::start start_of(const bus::progress& given);

/** True where the tables may have what this portion of a replay lacks: it is not whole, or begins with the oldest event in memory. */
bool may_be_kept(std::string_view channel, const bus::progress& from, const bus::replay& given);

}  // namespace postbus::gateway
