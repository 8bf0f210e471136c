#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "postgres/connection.hpp"
#include "postgres/listen_policy.hpp"

namespace postbus::postgres {

/** LISTEN takes names up to this many bytes (NAMEDATALEN - 1) and cuts off longer ones. */
inline constexpr std::size_t max_listen_bytes = 63;

struct listener_options {
  connect_options session;  ///< must reach the server itself (or a session pooler), not through a transaction pooler
  listen_limits limits{};
};

/** Called on the listener's executor, from within run(). They must not throw, and must not destroy the listener. */
struct listener_events {
  std::function<void(const notification&)> on_notification;
  /**
   * A command was answered: what was notified before has been delivered. A half-open connection is noticed late, so the
   * gap of an outage begins at the last such call and not at on_lost. At least every `idle` in silence.
   */
  std::function<void()> on_alive{};
  /** An outage begins, or has begun since the last on_alive: what is notified in it is missed. Once per outage. */
  std::function<void(const error& reason)> on_lost;
  /** The outage is over and every channel is heard again: now is the time to announce the gap. */
  std::function<void()> on_back;
};

/**
 * The one session of the process that LISTENs, for any number of channels and listeners.
 *
 * listen() counts a listener and returns once the channel's LISTEN has committed; requests made meanwhile share the next
 * command. The last unlisten() keeps the channel for a while (listen_limits::linger), so that one who comes back does not
 * cost two commands. A lost session is reopened with back-off, everything wanted is LISTENed again, and then on_back says
 * so. The session never holds a transaction open: one that did would keep the server's NOTIFY queue from shrinking.
 *
 * A broken connection is noticed at once where the server or the kernel says so; a half-open one within idle + answer
 * (six seconds by default), because a silent session is asked `select 1`.
 *
 * Not guaranteed: notifications during an outage. A hot standby refuses LISTEN: that is an outage whose reason names the fix.
 * All members on the executor's thread only. Source: PostgreSQL manual, LISTEN, "Asynchronous Notification"; async.c.
 */
class listener {
public:
  listener(asio::any_io_executor executor, listener_options options, listener_events events);
  listener(const listener&) = delete;
  listener& operator=(const listener&) = delete;
  ~listener();  ///< run() must have returned

  /** Serves until stop(). Spawn it once. */
  asio::awaitable<void> run();
  /** Closes the session; run() returns, and listen() fails from now on. */
  void stop();

  /**
   * One more listener of `channel`. Success: its LISTEN is in force, and one unlisten() is owed. Failure holds nothing:
   * errc::invalid_channel for a name LISTEN cannot take; errc::unavailable at once while the database is away. Waits no
   * longer than opening a session and the commands before it may take.
   */
  asio::awaitable<result<>> listen(std::string channel);
  void unlisten(std::string_view channel);

  bool connected() const;
  /** Channels that are heard now, lingering ones among them. */
  std::size_t listening() const;
  /**
   * A number that stays the same as long as every NOTIFY on the channel since the number was given has been or will be
   * delivered; another after any interruption. nullopt while the channel is not heard.
   */
  std::optional<std::uint64_t> listening_generation(std::string_view channel) const;

  struct channel_state {
    std::string name;
    std::size_t listeners{};
    std::optional<steady::time_point> since{};  ///< heard without a break since then
  };
  /** Every channel wanted, by name. */
  std::vector<channel_state> channels() const;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus::postgres
