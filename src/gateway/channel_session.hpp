#pragma once
#include <optional>
#include <string>

#include "gateway/catch_up.hpp"
#include "gateway/listening.hpp"
#include "gateway/session.hpp"
#include "gateway/snapshot_rows.hpp"
#include "gateway/ws_intake.hpp"

namespace postbus::gateway {

/**
 * A connection that listens on one channel: a cursor in the channel's log. What the client is behind lies in the log, shared
 * with all others; the session itself holds bytes only for a portion of its replay and for control frames. What it missed it
 * takes from history, and a table's rows from their spool, as the socket takes them, and attaches to the log behind them.
 */
class channel_session : public session, protected bus::cursor {
public:
  channel_session(loop& home, socket&& s, std::unique_ptr<identity> who, listen_request asked, form f);
  ~channel_session() override;

  void begin() final;
  void flush() final;
  void after_flush() final;
  void drain() override { end(errc::draining); }
  void recheck(const token* mine) override;

protected:
  /** The bytes in front of everything, once the position is fixed: the response head of SSE. {}: a snapshot comes first. */
  virtual void append_opening(std::string& out, const bus::position& at) = 0;
  /** The bytes behind everything: a close frame. */
  virtual void append_ending(std::string& out, errc why, std::string_view text) = 0;
  void on_drained() final;

  /** Says goodbye as `why` (see errors.def) and closes when it is sent, or after a deadline. */
  void end(errc why);
  bool ending() const { return ending_.has_value(); }
  /** Queues bytes that must not stand within an event. */
  void append_between_events(std::string_view bytes);
  std::chrono::milliseconds ping_every() const;
  bool flushed_since_timer_{};
  /** It is given what it missed, or rows, as its socket takes them: nothing is held for it, and whoever takes some is alive. */
  bool catches_up() const { return rows_ || replaying_ || room_; }
  bool takes_some() const { return catches_up() && flushed_since_timer_; }

private:
  void on_pending() final { flush(); }
  void on_ended() final;
  bool give_more();
  bool give_rows();
  void begin_over(errc why);
  /**
   * Gives a portion of what history has after `from`; the last one subscribes, the others leave `replaying_`. False, and nothing
   * done, where a stream's tables may have more.
   */
  bool replay(const bus::progress& from);
  void read_tables(const bus::progress& from);

  listen_request asked_;
  form form_;
  std::optional<errc> ending_;
  std::unique_ptr<snapshot_rows> rows_;  // until they are sent
  std::optional<bus::progress> replaying_;  ///< until history has been given
  std::shared_ptr<room_signal> room_;       ///< while a stream's tables are read
  bool has_tables_{true};                   ///< for all that is known
  bool opened_{};                           ///< the opening has been written
};

/** `GET /v1/channels/{c}` with `Upgrade: websocket`: one text frame per event. */
class websocket_channel final : public channel_session {
public:
  using channel_session::channel_session;
  void on_timer() override;

private:
  void append_opening(std::string&, const bus::position&) override { arm(ping_every()); }
  void append_ending(std::string& out, errc why, std::string_view text) override;
  void on_bytes(std::span<char> bytes) override;
  void break_off(std::uint16_t code, std::string_view why);
  ws_intake intake_{home(), 64 * 1024};  // nothing but control frames is expected
  bool heard_{true};
};

/** `GET /v1/channels/{c}` with `Accept: text/event-stream`. */
class sse_channel final : public channel_session {
public:
  sse_channel(loop& home, socket&& s, std::unique_ptr<identity> who, listen_request asked, form f, std::string head);
  void on_timer() override;

private:
  void append_opening(std::string& out, const bus::position& at) override;
  void append_ending(std::string& out, errc why, std::string_view text) override;
  void on_bytes(std::span<char>) override {}  // a stream's client has nothing more to say
  std::string head_;  // of the response; gone once sent
};

/** What stands behind the last event: the reason, where it is more than that the gateway wants it so, and when to come back. */
void append_sse_ending(std::string& out, const error& why);
/** Head of a streaming response, up to the empty line; `extra` are whole header lines. */
std::string stream_head(std::string_view content_type, std::string_view extra);

}  // namespace postbus::gateway
