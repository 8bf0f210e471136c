#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "postbus/event.hpp"
#include "postbus/request_error.hpp"

namespace postbus {

struct hub_options {
  std::string database{};         ///< libpq URL or keyword form; never logged
  std::string database_direct{};  ///< the same past a transaction pooler, for replication and LISTEN; empty: `database`
  std::size_t history_bytes{16u << 20};             ///< events kept in memory for listeners that start `after` a position
  std::size_t queue_events{4'096};                  ///< waiting for handlers; beyond it the WAL is read no further
  std::chrono::milliseconds start_timeout{30'000};  ///< until events flow
};

/** One listener of an embedded_hub. Movable; may outlive the hub. */
class hub_subscription {
public:
  hub_subscription(hub_subscription&&) noexcept;
  hub_subscription& operator=(hub_subscription&&) noexcept;
  ~hub_subscription();  ///< stops it

  /** Ends it: once this has returned the handler does not run and will not, unless it is the handler that calls. */
  void stop() &;
  /** It was stopped, its handler threw, or the hub is gone. */
  bool ended() const&;

private:
  friend class embedded_hub;
  struct impl;
  explicit hub_subscription(std::shared_ptr<impl> made);
  std::shared_ptr<impl> impl_;
};

/**
 * The hub of `postbus serve` inside your own process, without a gateway: it opens replication itself (one temporary slot,
 * one listening session, a few sessions to post) and calls you back with the events of the channels you listen on: posts,
 * feeds of watched tables (`table:public.orders`) and plain NOTIFY. It heals by itself; what may be missing is told by gap
 * and reset events.
 *
 * It needs the schema (`postbus setup`), logical WAL and a role with REPLICATION: request_error names the fix otherwise.
 * It does not mirror feeds to plain channels (watch's `notify`): that is a gateway's work.
 *
 * Handlers run one at a time on one thread of the hub's own, never at the same time. They may post, listen and stop. One
 * that takes long delays the others, and in the end the reading of the WAL, which the server then keeps.
 *
 * Thread safety: every member on any thread. Each process that embeds a hub costs the database a slot and decodes the whole
 * WAL: many listeners belong behind one gateway.
 */
class embedded_hub {
public:
  /** Connects and returns once events flow. Throws request_error. */
  explicit embedded_hub(hub_options options);
  embedded_hub(const embedded_hub&) = delete;
  embedded_hub& operator=(const embedded_hub&) = delete;
  ~embedded_hub();  ///< ends all subscriptions; not from a handler

  /**
   * Calls `handler` with each event of `channel` from now on, or after `after` ("beginning": the oldest event in memory; a
   * position). Returns once nothing posted from here on is missed. A handler that throws ends its subscription and is
   * logged. Throws request_error.
   */
  hub_subscription listen(std::string_view channel, std::function<void(const event&)> handler, std::string_view after = {}) &;

  /** Posts text (UTF-8), or one JSON value. Returns the position that `at_least=` reads take. Throws request_error. */
  std::string post(std::string_view channel, std::string_view payload) &;
  std::string post_json(std::string_view channel, std::string_view json) &;

  /** Events flow at this moment. */
  bool ready() const&;
  /** Why they do not; empty when they do. */
  std::string problem() const&;

private:
  friend class hub_subscription;
  struct impl;
  std::shared_ptr<impl> impl_;
};

}  // namespace postbus
