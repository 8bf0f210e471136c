#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "gateway/loop.hpp"
#include "gateway/socket.hpp"

namespace postbus::gateway {

/**
 * One client connection in one protocol. Owned by its loop, used on its loop's thread. When the protocol changes (a request
 * becomes a WebSocket) the next session takes the socket over and this one goes.
 *
 * Output is the session's own bytes (`out`), then what the concrete session has beside it. Whatever does not fit the socket
 * stays, `blocked()` is true, and flush() is called again when the socket takes more.
 */
class session {
public:
  session(loop& home, socket&& s, std::unique_ptr<identity> who);
  session(const session&) = delete;
  session& operator=(const session&) = delete;
  virtual ~session();

  // Called by the loop.
  void socket_ready(std::uint32_t epoll_events);
  /** The end of a turn in which flush_later was called. */
  virtual void flush();
  /** All of this turn's writing is done: subscriptions may be dropped now. */
  virtual void after_flush() {}
  virtual void on_timer() = 0;
  /** Tells the client to come back and ends as soon as that has been sent. */
  virtual void drain() = 0;
  /** The tokens changed; `mine` is this session's token as it is now, null when it was revoked. */
  virtual void recheck(const token* mine) = 0;
  /** Told once after adopt(). */
  virtual void begin() {}

  const identity* who() const { return who_.get(); }
  bool closed() const { return closed_; }

protected:
  /** Bytes arrived; they may be changed in place. */
  virtual void on_bytes(std::span<char> bytes) = 0;
  /** The client has closed its sending side, or the connection is broken. */
  virtual void on_end() { close(); }
  /** The socket was full, and now everything has been written. */
  virtual void on_drained() {}

  /** Reads until the socket is dry or reading is paused. */
  void read_some();
  bool handshake_done() const { return socket_.handshake_done(); }
  /** No more will be written. */
  void shutdown_write() { socket_.shutdown_write(); }
  void pause_reading() { reading_paused_ = true; }
  void resume_reading();
  /** Own bytes, written before anything else at the end of the turn. */
  std::string& out();
  bool has_out() const { return out_ != nullptr; }
  std::size_t out_bytes() const { return out_ ? out_->bytes.size() - out_->done : 0; }
  bool blocked() const { return blocked_; }
  /** Writes the own bytes; true when none are left. */
  bool write_out();
  /** Writes and returns how many bytes were taken; fewer than given means blocked, and all may be, over TLS, with a record left to be sent. */
  std::size_t write(std::string_view bytes);
  /** Destroys the session at the end of the turn. */
  void close();
  /** Closes once `out` has been written; a client that takes nothing of it for stall_deadline is not waited for. */
  void close_after_out();
  bool closing() const { return closing_; }
  /**
   * Everything has been written: says that no more comes and waits a little for the peer to close. Closing at once, with bytes
   * of the peer's unread, would make the kernel reset the connection and take the last words with it.
   */
  void close_when_peer_does();
  /** For on_timer of a session that is closing. */
  void close_if_stalled();
  socket take_socket() { return std::move(socket_); }
  std::unique_ptr<identity> take_identity() { return std::move(who_); }
  void set_identity(std::unique_ptr<identity> who) { who_ = std::move(who); }
  /** `next` was built from this session's socket: it goes on with what this one has not written yet and with `unread`, and this one goes. */
  void hand_over(std::unique_ptr<session> next, std::span<char> unread);
  void arm(std::chrono::milliseconds after) { home_.wheel().arm(timer_, after); }
  bool timer_armed() const { return timer_.armed(); }
  void disarm() { timer_.cancel(); }
  /** What makes flush() be called in a turn to come, if the session still lives then; it may be called on any thread. */
  std::function<void()> flush_from_any_thread();
  /** A handle that turns null when the session goes: for callbacks and coroutines that may outlive it. */
  std::shared_ptr<session*> handle();
  loop& home() { return home_; }

private:
  friend class loop;
  bool flush_socket();
  struct backlog {
    std::string bytes;
    std::size_t done{};
    std::size_t done_before{};  // when close_if_stalled looked last
  };
  struct session_timer : timing_wheel::timer {
    explicit session_timer(session& s) : owner{s} {}
    session& owner;
  };

  loop& home_;
  socket socket_;
  std::unique_ptr<identity> who_;
  std::unique_ptr<backlog> out_;
  std::shared_ptr<session*> handle_;
  session_timer timer_{*this};
  session* next_{};
  session** previous_{};
  bool blocked_{}, closing_{}, said_all_{}, closed_{}, dirty_{}, after_{}, reading_paused_{}, unread_{}, ended_{};
};

}  // namespace postbus::gateway
