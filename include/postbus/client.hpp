#pragma once
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "postbus/event.hpp"
#include "postbus/request_error.hpp"

namespace postbus {

struct client_options {
  std::string token{};                              ///< sent as Authorization: Bearer; never logged
  std::string ca_file{};                            ///< PEM file for https; empty: the system's certificates
  std::chrono::milliseconds connect_timeout{5'000}; ///< name lookup, TCP and TLS together
  std::chrono::milliseconds request_timeout{30'000};///< one post or status, connecting included
};

/** What a listener's own connection does, for a log line. Called on the listener's thread; must not block. */
enum class link_state : std::uint8_t { connected, lost, ended };

struct listen_options {
  /** Of streams: go on after what this consumer has acknowledged (client::ack); instead of `after`. */
  std::string consumer{};
  /**
   * "" or "now", "beginning" (the oldest event the gateway keeps), or a position. One that is read from where the effects of
   * events are stored in the same transaction makes those effects exact: examples/ledger.
   */
  std::string after{};
  /**
   * A file that remembers the position of each channel, so that the next run goes on where this one stopped. It wins
   * over `after`. Written (new file, fsync, rename, fsync of the folder) when the consumer has come back for more:
   * after a crash events may repeat, with the same position, and none is missing.
   */
  std::string resume_file{};
  bool save_by_itself{true};  ///< false: the resume file is written by save() alone, for a consumer that knows when its own output is safe
  std::chrono::milliseconds confirm_timeout{10'000};  ///< how long listen() waits at most; 0: not at all
  /** Received and not yet taken; beyond either bound the socket is not read, except while listen() waits for channels that begin now. */
  std::size_t queue_events{1'024};
  std::size_t queue_bytes{16u << 20};
  std::function<void(link_state, std::string_view why)> on_link{};
  /** Of a table's channel: only rows that match this filter, as in "status = 'open' and total > 100" (docs/filters.md). */
  std::string where{};
  std::vector<std::string> columns{};  ///< only these; empty: all that the feed shows
  bool maybe{};  ///< take also what cannot be known for sure, with "maybe":true in the payload
  /**
   * Of a table's channel: its rows first (kind `row`), then what they did not hold yet, then `live`, then every change. What
   * comes before `live` has no position. A listener that is interrupted there, or cannot be resumed, is given a `reset` without a
   * position, and the rows come again.
   */
  bool snapshot{};
};

/**
 * The events of some channels, in the order of each channel. Holds its own connection and thread, comes back by itself
 * (exponential back-off with jitter) and resumes after the last event it received; what cannot be resumed arrives as a
 * gap or reset event. Close codes 4400, 4401 and 4403 end it: the gateway says that coming back is of no use.
 *
 * Thread safety: next() and ready() on one thread at a time; stop() on any thread. Movable; independent of the client
 * that made it.
 */
class listener {
public:
  listener(listener&&) noexcept;
  listener& operator=(listener&&) noexcept;
  ~listener();  ///< stops, and joins the thread

  /**
   * The next event; empty when `timeout` has passed, or when stop() was called and everything received is taken.
   * Throws request_error once the listener has ended for good. The event before counts as handled: see resume_file.
   */
  std::optional<event> next(std::chrono::milliseconds timeout) &;
  std::optional<event> next(std::chrono::milliseconds timeout) && = delete;  // the listener would be gone, and its events with it
  /** next() would return at once. */
  bool ready() const&;
  /** Ends the listening: next() returns what was received, then nothing. What is not taken comes again to who resumes. */
  void stop() &;
  bool stopped() const&;
  /** Writes the resume file now, counting everything taken as handled. Throws request_error when that fails. On next()'s thread. */
  void save() &;

private:
  friend class client;
  struct impl;
  explicit listener(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

/** A listener whose events go to a function, on a thread of its own. Movable; the destructor stops it and joins. */
class subscription {
public:
  subscription(subscription&&) noexcept;
  subscription& operator=(subscription&&) noexcept;
  ~subscription();

  /** Ends it: what is being handled is the last event. From within the handler too. */
  void stop() &;
  /** Blocks until it has ended; rethrows what ended it: request_error, or what the handler threw. */
  void wait() &;

private:
  friend class client;
  struct impl;
  explicit subscription(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

/**
 * A gateway as seen from a program: posts by HTTP, listens by WebSocket. The constructor only parses the URL
 * (std::invalid_argument when it is not http:// or https://).
 *
 * Thread safety: every member on any thread; posts of one client go one after another over one kept connection.
 */
class client {
public:
  explicit client(std::string url, client_options options = {});
  client(client&&) noexcept;
  client& operator=(client&&) noexcept;
  ~client();

  /** Posts text (UTF-8). Returns the position that `at_least=` reads take. Throws request_error. Never sent twice. */
  std::string post(std::string_view channel, std::string_view payload) &;
  /** Posts one JSON value: listeners see it embedded in the event. */
  std::string post_json(std::string_view channel, std::string_view json) &;

  /**
   * Listens; what is posted from its return on is received. Returns once the gateway has confirmed every channel, or those that
   * begin now, and what the others are behind fills the queue: then a channel may still be refused, and next() says so. Throws
   * request_error.
   */
  listener listen(std::vector<std::string> channels, listen_options options = {}) const;
  /** As above, with every event given to `handler` on the subscription's thread. A handler that throws ends it. */
  subscription listen(std::vector<std::string> channels, std::function<void(const event&)> handler, listen_options options = {}) const;

  /** A consumer of a stream is done with all up to `position`: it goes on after it next time. Throws request_error. */
  void ack(std::string_view channel, std::string_view consumer, std::string_view position) &;

  /** The gateway's `GET /v1/status`: a JSON document (docs/cli.md names its fields). */
  std::string status() &;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus
