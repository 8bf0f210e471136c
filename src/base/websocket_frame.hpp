#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace postbus::websocket {

/** RFC 6455 section 5.2. Values above 7 are control frames. */
enum class opcode : std::uint8_t { continuation = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10 };

/** Close codes that Postbus sends itself: RFC 6455 section 7.4.1, and 4000 on our own (errors.def says which error carries which). */
namespace close_code {
inline constexpr std::uint16_t normal = 1000, going_away = 1001, protocol_error = 1002, unsupported_data = 1003, none = 1005,
                               invalid_data = 1007, policy = 1008, too_big = 1009, internal = 1011, try_again = 1013, too_slow = 4001,
                               bad_frame = 4400;
}

inline constexpr std::size_t max_header_bytes = 14;
inline constexpr std::size_t max_control_bytes = 125;
inline constexpr std::size_t max_reason_bytes = 123;

/** Bytes of an unmasked header in front of `size` bytes of payload: 2, 4 or 10. */
constexpr std::size_t header_bytes(std::size_t size) { return size < 126 ? 2 : size < 65536 ? 4 : 10; }

/** Appends the header of one unmasked, unfragmented frame: what a server sends. */
void append_frame_header(std::string& out, opcode op, std::size_t size);
/** Header and payload. */
void append_frame(std::string& out, opcode op, std::string_view payload);
/** The same masked by `key`: what a client sends. The key must come from a strong random source (RFC 6455 section 5.3). */
void append_masked_frame(std::string& out, opcode op, std::string_view payload, std::uint32_t key);

/** The payload of a close frame: code and reason, cut to 123 bytes at a character's edge. `close_code::none` gives an empty payload. */
std::string close_payload(std::uint16_t code, std::string_view reason);
/** An unmasked close frame. */
void append_close(std::string& out, std::uint16_t code, std::string_view reason);

/** True for codes that may stand in a close frame: 1000-1003, 1007-1014 and 3000-4999. */
bool is_sendable_close_code(std::uint16_t code);

/** Masks or unmasks in place. `key` as its four bytes stand in memory; `offset` is how many bytes of the frame came before `data`. */
void apply_mask(char* data, std::size_t size, std::uint32_t key, std::size_t offset = 0);

/** The value of Sec-WebSocket-Accept for a client's Sec-WebSocket-Key (RFC 6455 section 4.2.2). */
std::string accept_key(std::string_view key);

/** The subprotocol of /v1/ws. */
inline constexpr std::string_view subprotocol = "postbus.v1";

}  // namespace postbus::websocket
