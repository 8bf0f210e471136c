#pragma once
#include "base/clock.hpp"
#include "base/websocket_parser.hpp"
#include "gateway/loop.hpp"

namespace postbus::gateway {

/**
 * What a WebSocket's client sends: its frames, and the memory and time that a message in the making takes, which are bounded as a
 * request's body is. Loop's thread.
 */
class ws_intake {
public:
  ws_intake(loop& home, std::uint32_t max_message) : home_{home}, parser_{websocket::role::server, max_message}, held_{home} {}

  /** As parser::next; also `broken` with 1013 where the loop has no memory for the message. */
  websocket::item next(std::span<char>& input);
  /** The message in the making has taken longer than a body may: close with 1013 and this reason. Empty: it has not. */
  std::string_view overdue() const;

private:
  loop& home_;
  websocket::parser parser_;
  body_share held_;
  steady::time_point since_{};  // the message in the making; {}: there is none
};

}  // namespace postbus::gateway
