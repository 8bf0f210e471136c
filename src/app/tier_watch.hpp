#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <functional>
#include <mutex>
#include <string>

#include "postgres/probe.hpp"

namespace postbus::app {

/**
 * What a gateway says of how its messages travel. The transport itself is decided once, at the start; the reason and the
 * fix are looked at again while they are in doubt: where a trouble that may pass decided, where the WAL is not being read
 * although it should be, and when the database was away and may have come back as another. A gateway that began with
 * NOTIFY and could read the WAL by now says so; a restart takes it.
 *
 * Thread: the executor's, but wal() and now() may be called on any.
 */
class tier_watch {
public:
  struct settings {
    std::string db, direct;  ///< as postgres::probe takes them
    steady::duration look_every{std::chrono::seconds{15}};
  };
  /** `reads` tells whether the WAL is being read at the moment; any thread, must outlive it. */
  tier_watch(boost::asio::any_io_executor executor, settings given, postgres::tier decided, std::function<bool()> reads);

  bool wal() const { return wal_; }
  /** Reason and fix are empty where all is well. */
  postgres::tier now() const;

  /** Runs until stop(). */
  boost::asio::awaitable<void> run();
  void stop();
  /** The database was away. */
  void look_again();

private:
  boost::asio::awaitable<void> look();

  const settings settings_;
  const bool wal_;
  const std::function<bool()> reads_;
  boost::asio::steady_timer timer_;
  bool asked_{};
  bool stopped_{};

  mutable std::mutex guard_;  // of tier_
  postgres::tier tier_;
};

}  // namespace postbus::app
