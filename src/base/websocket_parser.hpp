#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/websocket_frame.hpp"

namespace postbus::websocket {

/** Which end reads: a server's peer must mask its frames, a client's peer must not. */
enum class role : std::uint8_t { server, client };

/** What `parser::next` found. */
struct item {
  enum class what : std::uint8_t {
    need_more,  ///< the input is used up
    text,       ///< a whole message, valid UTF-8
    binary,     ///< a whole message
    ping,       ///< to be answered with a pong of the same payload
    pong,
    close,      ///< the peer's close frame: `code` (close_code::none where it gave none) and the reason as `payload`
    broken,     ///< the peer broke the protocol: close with `code`; `payload` says why, safe to send as the reason
  };
  what is{what::need_more};
  std::uint16_t code{};
  std::string_view payload;  ///< in the input or in the parser; valid until the next call
};

/**
 * Reads RFC 6455 frames without I/O and without extensions. 16 bytes while nothing is pending; memory is taken only for a
 * frame that arrived in part or a message in fragments, grows with what has arrived (never with what a header claims)
 * and is given back with the message.
 *
 * Broken input ends it: 1002 for a breach of framing, 1007 for text that is not UTF-8 (noticed at the first bad byte, also
 * across fragments), 1009 beyond the limit. After `broken` or `close` all further input is swallowed.
 *
 * Thread safety: none; one owner.
 */
class parser {
public:
  /** `max_message` bounds a message's payload, all fragments together, in bytes. */
  explicit parser(role who, std::uint32_t max_message);
  parser(parser&&) noexcept;
  parser& operator=(parser&&) noexcept;
  ~parser();

  /**
   * Takes one item off the front of `input`, which shrinks by what was used. The bytes are unmasked in place. Call until it
   * gives need_more.
   */
  item next(std::span<char>& input);

  /** True while part of a frame or message is waiting for its rest. */
  bool pending() const { return state_ != nullptr; }
  /** Bytes of memory that it takes. */
  std::size_t held() const;

private:
  struct state;
  item whole_frame(std::span<char>& input);
  item partial(std::span<char>& input);
  item finish(opcode op, std::string_view payload);
  item broken(std::uint16_t code, std::string_view why);

  std::unique_ptr<state> state_;
  std::uint32_t max_message_;
  role role_;
  bool ended_{};
};

}  // namespace postbus::websocket
