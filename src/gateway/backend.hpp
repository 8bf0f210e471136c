#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/json/object.hpp>

#include <memory>
#include <string>

#include "base/result.hpp"
#include "bus/event.hpp"
#include "bus/hub.hpp"
#include "bus/position.hpp"
#include "feeds/spool.hpp"
#include "feeds/view.hpp"
#include "streams/page.hpp"

namespace postbus::gateway {

/**
 * What the gateway needs from behind it. `serve` gives it the database; the fan-out bench gives it a hub and nothing else.
 * Called on any loop's thread; every coroutine completes on the executor it was awaited on. All waits have deadlines.
 */
class backend {
public:
  virtual ~backend() = default;

  /** Posts one message (channel and payload are already checked). The position is at or after the message's. */
  virtual boost::asio::awaitable<result<bus::position>> post(std::string channel, bus::payload_form form, std::string payload) = 0;
  /**
   * Sees to it that plain NOTIFY on `channel` reaches the hub, and returns the position since when it does without a break.
   * Calls are counted; each success is followed by one `unlisten`.
   */
  virtual boost::asio::awaitable<result<bus::position>> listen(std::string channel) = 0;
  virtual void unlisten(std::string channel) = 0;
  /** The channel of a watched table's feed for a name as a user gives it (`orders`, `public.orders`). errc::not_watched tells the command that watches it. */
  virtual boost::asio::awaitable<result<std::string>> feed_channel(std::string table) = 0;
  /**
   * Registers what `asked` shows of the feed `channel`, which must be one. Batches published from then on carry its events, on
   * the view's own channel, until the last who holds it lets it go (on any thread). Errors as feeds::bind_view.
   */
  virtual boost::asio::awaitable<result<std::shared_ptr<const feeds::view>>> open_view(std::string channel, feeds::view_request asked) = 0;
  /** The rows of a feed's table, or what a view shows of them; errors as feeds::snapshots::open. The reader may be used on any thread. */
  virtual boost::asio::awaitable<result<std::unique_ptr<feeds::spool_reader>>> snapshot(std::string, std::shared_ptr<const feeds::view>) {
    co_return error{errc::unsupported, "this gateway has no tables"};
  }
  /** What a stream keeps after `from`, a piece of it: at most `most` messages. errc::not_found: the channel is not a stream. */
  virtual boost::asio::awaitable<result<streams::page>> read_stream(std::string channel, bus::start from, std::size_t most);
  /** Where a named consumer of a stream goes on. errc::not_found: the channel is not a stream. */
  virtual boost::asio::awaitable<result<bus::start>> consumer_start(std::string channel, std::string consumer);
  /** Remembers that a consumer is done with all up to a position (checked for its form only). */
  virtual boost::asio::awaitable<result<>> ack(std::string channel, std::string consumer, std::string position);
  /** True while messages can be posted and events flow. */
  virtual bool ready() const = 0;
  /** Why it is not ready, safe to show; may be empty. Any thread. */
  virtual std::string problem() const { return {}; }
  /** The database's part of /v1/status. */
  virtual boost::json::object status() const = 0;
};

}  // namespace postbus::gateway
