#pragma once
#include <boost/asio/awaitable.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/http_parser.hpp"
#include "gateway/loop.hpp"
#include "gateway/session.hpp"
#include "gateway/target.hpp"

namespace postbus::gateway {

/** A whole answer. */
struct response {
  int status{200};
  std::string_view content_type{"text/plain; charset=utf-8"};
  std::string body{};
  std::string headers{};  ///< whole lines, each with its CR LF
};

/** How a request waits for events and is answered by them: a long poll, or /wait. */
struct wait_for {
  listen_request asked;
  std::chrono::milliseconds at_most{};
  std::size_t most_events{};
  /** Makes the answer of what came (nothing when the time is up) and the position to go on from. */
  std::function<response(const std::vector<bus::event_ref>&, const bus::position&)> answer;
  /** True when an event ends the wait; others are kept for the answer. */
  std::function<bool(const bus::event&)> enough;
};

/**
 * A connection in HTTP: reads one request after the other, lets the routes act on each, answers in order. When a request asks
 * for a stream or a WebSocket, the connection goes on as another session.
 */
class http_session final : public session {
public:
  http_session(loop& home, socket&& s);
  ~http_session() override;

  void begin() override;
  void on_timer() override;
  void drain() override;
  void recheck(const token* mine) override;

  // For the routes. Each request is answered by exactly one of these, at once or later.
  const http_parser& request() const { return *parser_; }
  http_parser& request() { return *parser_; }
  const class target& target() const { return *target_; }
  using session::home;
  using session::who;
  /** Turns null when the connection goes. */
  std::shared_ptr<session*> weak() { return handle(); }
  void respond(response answer);
  void fail(const error& why);
  /** Runs `work` and answers with what it returns; the connection reads nothing meanwhile. */
  void respond_later(std::string_view name, boost::asio::awaitable<result<response>> work);
  /** Prepares the channel and waits for events. */
  void wait(wait_for what);
  /** Calls `then` when the channel may be subscribed to, or answers with the error. Not called when the client left. */
  void prepare(listen_request asked, std::function<void(listen_request)> then);
  /** The same for several channels. */
  void prepare_all(std::vector<listen_request> asked, std::function<void(std::vector<listen_request>)> then);
  /** Hands the socket to the session that `make` builds from it; this one goes. */
  template <class Session, class... Args>
  void become(Args&&... args) {
    auto next = std::make_unique<Session>(home(), take_socket(), take_identity(), std::forward<Args>(args)...);
    hand_over(std::move(next), unread_);
  }
  /** Header lines that every answer carries (CORS). */
  std::string& common_headers() { return common_headers_; }
  /** Bytes that go before all else of the session this one becomes. */
  void before_upgrade(std::string bytes) { out() += bytes; }

private:
  void on_bytes(std::span<char> bytes) override;
  void on_end() override;
  void flush() override;
  void feed();
  /** The client does not read its answers: no more requests are taken from it until it does. */
  bool answers_unread() const;
  bool begin_body();
  void act();
  void identify();
  void begin_waiting();
  void take_history(const bus::progress& from);
  void read_tables(const bus::progress& from);
  void stop_waiting();
  bool wait_is_over() const;
  void finish_wait();

  enum class state : std::uint8_t { handshaking, idle, reading, busy, waiting, discarding };
  class waiter;
  void set_state(state next);

  state state_{state::handshaking};
  bool last_{};  // the connection ends with this answer
  bool head_only_{};
  bool token_shown_{};  ///< known or not
  body_share body_;
  bool in_body_{};
  std::unique_ptr<http_parser> parser_;
  std::optional<class target> target_;
  std::string unread_;  // of the next request, or of a WebSocket's first frames
  std::string common_headers_;
  std::unique_ptr<waiter> waiter_;
};

/** Acts on the request of `s`: see routes.cpp. */
void route(http_session& s);

}  // namespace postbus::gateway
