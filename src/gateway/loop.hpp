#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bus/shard.hpp"
#include "gateway/encoding.hpp"
#include "gateway/gateway.hpp"
#include "gateway/listening.hpp"
#include "gateway/throughput.hpp"
#include "gateway/timing_wheel.hpp"

namespace postbus::gateway {

class session;

/** What all loops share. Everything in it is either constant, atomic or safe to use from any thread. */
struct server::shared {
  shared(bus::hub& h, backend& b, gateway_options o);
  bus::hub& hub;
  backend& behind;
  const gateway_options options;
  std::atomic<std::shared_ptr<const token_set>> tokens;
  std::atomic<std::shared_ptr<const tls_context>> tls;
  std::atomic<bool> draining{false};
  std::atomic<bool> spread{false};  // all loops accept
  std::atomic<int> running{0};
  int listening_socket{-1};
  std::uint16_t bound_port{};
  steady::time_point started{steady::now()};
  throughput flowing;  ///< loop 0 takes its samples
  std::vector<std::unique_ptr<class loop>> loops;
};

/**
 * One thread's event loop and the connections that live on it.
 *
 * A turn: Asio waits (for timers, the database, other threads, and for the set of client sockets as one descriptor) → every
 * client socket that is ready is read and its requests are acted on → what the hub has for this shard is delivered → each
 * socket with something pending is written to once → closed connections are destroyed. Client sockets are not Asio's: an
 * own edge-triggered epoll set costs an idle connection nothing but its entry.
 *
 * Loop 0 carries the database side too, so its clients get an event without a wake-up of another thread: it takes the first
 * `beside_reader` connections, and from then on all loops accept.
 */
class loop {
public:
  explicit loop(server::shared& shared);
  ~loop();

  /** Runs turns until drained. */
  void run();
  boost::asio::io_context& context() { return context_; }
  /** Runs `work` on this loop's thread at its next turn. Any thread. */
  void post(std::function<void()> work);
  /** Starts a detached coroutine on this loop: named, counted, its failure logged. */
  void spawn(std::string_view name, boost::asio::awaitable<void> work);

  // For sessions, on this thread.
  server::shared& shared() { return shared_; }
  const gateway_limits& limits() const { return shared_.options.limits; }
  bus::shard& shard() { return shard_; }
  timing_wheel& wheel() { return wheel_; }
  turn_cache& encoded() { return encoded_; }
  std::span<char> read_buffer() { return read_buffer_; }
  /** Takes ownership of a session whose socket is in place. */
  void adopt(std::unique_ptr<session> s);
  /** `s` is written to once at the end of this turn. */
  void flush_later(session& s);
  /** Its after_flush() is called when all have been written to. */
  void call_after_flush(session& s);
  /** Destroys `s` at the end of this turn. */
  void destroy_later(session& s);
  /** Makes the epoll set report to `now` what it reported to whoever held this socket. */
  void watch(int fd, session& now, bool is_new);

  class listening& listening() { return listening_; }

  /** Calls `visit` for every session of this loop. */
  void for_each(const std::function<void(session&)>& visit);
  std::size_t sessions() const { return sessions_; }
  /** From now on this loop takes its share of the new connections. */
  void accept_here();
  void begin_drain();

private:
  friend class body_share;
  bool is_first() const { return this == shared_.loops.front().get(); }
  void spread_if_many();
  void ring();
  void wait_for_sockets();
  void wait_for_bell();
  void wait_for_tick();
  void poll_sockets();
  void accept_some();
  void finish_turn();
  void stop_if_drained();

  server::shared& shared_;
  std::size_t bodies_{};  // of all shares; the context's coroutines have some
  boost::asio::io_context context_{1};
  boost::asio::posix::stream_descriptor sockets_;  // the epoll set
  boost::asio::posix::stream_descriptor bell_;     // an eventfd, rung by the hub from other threads
  boost::asio::steady_timer tick_;
  steady::time_point next_tick_;
  std::atomic<bool> rung_{false};
  bus::shard shard_;
  timing_wheel wheel_;
  turn_cache encoded_;
  std::vector<char> read_buffer_;
  std::vector<session*> dirty_, after_flush_, graveyard_;
  session* first_{};  // of all sessions
  std::size_t sessions_{};
  std::size_t coroutines_{};
  class listening listening_{*this};
  int spare_descriptor_{-1};
  bool draining_{};
  timing_wheel::timer drain_end_;
};

/** One holder's share in its loop's memory for what clients send (gateway_limits::max_bodies); given back when it goes. */
class body_share {
public:
  explicit body_share(loop& home) : home_{&home} {}
  body_share(body_share&& other) noexcept : home_{other.home_}, bytes_{std::exchange(other.bytes_, 0)} {}
  body_share& operator=(body_share&&) = delete;
  ~body_share() { hold(0); }
  std::size_t bytes() const { return bytes_; }
  /** Makes it this many bytes; false, and nothing done, when the loop's bound is reached. */
  bool hold(std::size_t bytes) {
    if (bytes > bytes_ && home_->bodies_ + (bytes - bytes_) > home_->limits().max_bodies) return false;
    home_->bodies_ += bytes - bytes_;
    bytes_ = bytes;
    return true;
  }

private:
  loop* home_;
  std::size_t bytes_{};
};

}  // namespace postbus::gateway
