#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/websocket_parser.hpp"
#include "client/listen_session.hpp"
#include "client/stream.hpp"

namespace postbus::remote {

/** What reaches a gateway, and how. */
struct link_settings {
  gateway_url url;
  std::string token;
  std::string ca_file;
};

/** The request line and fields that every request to a gateway begins with. Ends without the empty line. */
std::string request_head(const link_settings& to, std::string_view method, std::string_view target);

/**
 * One WebSocket to a gateway's /v1/ws (RFC 6455, client side), speaking postbus.v1. Answers pings itself; asks for a sign of
 * life after `quiet` without a byte, and takes the peer for lost after another `patience`.
 * Thread safety: none.
 */
class websocket_link {
public:
  static constexpr std::chrono::seconds quiet{15}, patience{10};
  /** Largest message taken: 16 MiB of payload in which every byte is escaped as six. */
  static constexpr std::uint32_t max_message = 100u << 20;

  /** Connects and upgrades. On failure `how` says more than the error: the status the gateway answered with. */
  static result<websocket_link> open(const link_settings& to, steady::time_point deadline, const wakeup* wake, link_end& how);

  /** Sends one text frame. */
  result<> send(std::string_view text, steady::time_point deadline);
  struct incoming {
    enum class what { text, ended, timed_out, woken };
    what is{what::text};
    std::string_view text;  ///< valid until the next call
    link_end end;
  };
  /** The next text frame, or why there is none. After `ended` the link is of no use. */
  incoming next(steady::time_point deadline);
  /** Tells the peer goodbye (close code 1000 or another), without waiting for its answer. */
  void close(std::uint16_t code, std::string_view reason, steady::time_point deadline);

private:
  websocket_link(stream connection, std::string first_bytes);
  result<> send_frame(websocket::opcode op, std::string_view payload, steady::time_point deadline);
  incoming ended(std::uint16_t code, std::string_view reason);
  incoming broken_off(error why);

  stream stream_;
  websocket::parser parser_;
  std::vector<char> buffer_;
  std::span<char> unread_;
  steady::time_point heard_{steady::now()};
  bool asked_{};  ///< a ping is on its way
};

}  // namespace postbus::remote
