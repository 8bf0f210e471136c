// How a frame becomes a message.
//
// The receive buffer belongs to the caller (one per thread, shared by all its connections). Most frames from a browser
// arrive whole: `whole_frame` unmasks such a frame where it stands and hands out a view, and the parser holds no memory
// before or after. Everything else (a header cut in two, a payload cut in two, a message in fragments) goes through
// `partial`, which keeps what has arrived in `state` and gives it back when the message has been handed out.
//
// What is checked when: reserved bits, opcodes, masking, length forms and sizes with the header, before any payload is
// kept; UTF-8 as the bytes come; close codes when the frame is whole.
#include "base/websocket_parser.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/bytes.hpp"
#include "base/json_text.hpp"
#include "base/utf8_stream.hpp"

namespace postbus::websocket {
namespace {

constexpr bool is_control(opcode op) { return static_cast<unsigned char>(op) >= 8; }

struct frame_header {
  std::uint64_t size{};
  std::uint32_t key{};
  opcode op{};
  bool final{};
};

enum class verdict { good, need_more, bad };

/** Decodes what stands at the front; `used` bytes when good. `why` when bad. A bad header is noticed at its first two bytes. */
verdict decode(std::string_view in, role who, frame_header& out, std::size_t& used, std::string_view& why) {
  if (in.size() < 2) return verdict::need_more;
  const auto first = static_cast<unsigned char>(in[0]), second = static_cast<unsigned char>(in[1]);
  const auto op = first & 0x0f;
  const bool masked = (second & 0x80) != 0;
  out.final = (first & 0x80) != 0;
  out.op = static_cast<opcode>(op);
  out.size = second & 0x7f;
  const auto bad = [&why](std::string_view text) {
    why = text;
    return verdict::bad;
  };
  if ((first & 0x70) != 0) return bad("reserved bits are set and no extension was agreed");
  if ((op > 2 && op < 8) || op > 10) return bad("unknown opcode");
  if (masked != (who == role::server)) return bad(masked ? "a server's frame must not be masked" : "a client's frame must be masked");
  if (is_control(out.op) && !out.final) return bad("a control frame must not be fragmented");
  if (is_control(out.op) && out.size > max_control_bytes) return bad("a control frame holds at most 125 bytes");
  used = 2;
  if (out.size == 126) {
    if (in.size() < 4) return verdict::need_more;
    out.size = load_big<std::uint16_t>(in.data() + 2);
    if (out.size < 126) return bad("the length is not in its shortest form");
    used = 4;
  } else if (out.size == 127) {
    if (in.size() < 10) return verdict::need_more;
    out.size = load_big<std::uint64_t>(in.data() + 2);
    if (out.size < 65536) return bad("the length is not in its shortest form");
    if (out.size >> 63 != 0) return bad("the length's top bit is set");
    used = 10;
  }
  if (masked) {
    if (in.size() < used + 4) return verdict::need_more;
    std::memcpy(&out.key, in.data() + used, 4);
    used += 4;
  }
  return verdict::good;
}

constexpr std::string_view too_big_text = "the message is larger than this server takes";
constexpr std::string_view not_utf8_text = "a text message must be UTF-8";

}  // namespace

struct parser::state {
  std::array<char, max_header_bytes> header{};
  std::uint8_t header_size{};
  std::uint8_t control_size{};
  bool in_frame{};
  bool in_message{};  // a data frame without fin came before
  enum class handed : std::uint8_t { nothing, control, message } handed_out{};
  opcode message_op{};
  utf8_stream utf8;
  frame_header frame;
  std::uint64_t taken{};  // bytes of this frame's payload so far
  std::array<char, max_control_bytes> control{};
  std::string message;

  bool idle() const { return header_size == 0 && !in_frame && !in_message; }
};

parser::parser(role who, std::uint32_t max_message) : max_message_{max_message}, role_{who} {}
parser::parser(parser&&) noexcept = default;
parser& parser::operator=(parser&&) noexcept = default;
parser::~parser() = default;

std::size_t parser::held() const { return state_ == nullptr ? 0 : sizeof(state) + state_->message.capacity(); }

item parser::next(std::span<char>& input) {
  if (state_ != nullptr && state_->handed_out != state::handed::nothing) {
    if (state_->handed_out == state::handed::message) std::string{}.swap(state_->message);
    state_->control_size = 0;
    state_->handed_out = state::handed::nothing;
    if (state_->idle()) state_.reset();
  }
  if (ended_) input = input.last(0);
  if (input.empty()) return {};
  return state_ == nullptr ? whole_frame(input) : partial(input);
}

item parser::broken(std::uint16_t code, std::string_view why) {
  ended_ = true;
  state_.reset();
  return {item::what::broken, code, why};
}

item parser::whole_frame(std::span<char>& input) {
  frame_header frame;
  std::size_t used = 0;
  std::string_view why;
  const auto found = decode({input.data(), input.size()}, role_, frame, used, why);
  if (found == verdict::bad) return broken(close_code::protocol_error, why);
  if (found == verdict::need_more || input.size() - used < frame.size || !frame.final || frame.op == opcode::continuation) {
    state_ = std::make_unique<state>();
    return partial(input);
  }
  if (!is_control(frame.op) && frame.size > max_message_) return broken(close_code::too_big, too_big_text);
  const auto size = static_cast<std::size_t>(frame.size);
  char* const data = input.data() + used;
  if (role_ == role::server) apply_mask(data, size, frame.key);
  input = input.subspan(used + size);
  const std::string_view payload{data, size};
  if (frame.op == opcode::text && !is_utf8(payload)) return broken(close_code::invalid_data, not_utf8_text);
  return finish(frame.op, payload);
}

item parser::partial(std::span<char>& input) {
  auto& s = *state_;
  for (;;) {
    if (!s.in_frame) {
      // One byte at a time: a header must not swallow payload, and it is at most 14 bytes.
      auto found = verdict::need_more;
      std::size_t used = 0;
      std::string_view why;
      while (found == verdict::need_more) {
        if (input.empty()) return {};
        s.header[s.header_size++] = input.front();
        input = input.subspan(1);
        found = decode({s.header.data(), s.header_size}, role_, s.frame, used, why);
      }
      if (found == verdict::bad) return broken(close_code::protocol_error, why);
      s.header_size = 0;
      s.taken = 0;
      if (!is_control(s.frame.op)) {
        if (s.in_message != (s.frame.op == opcode::continuation))
          return broken(close_code::protocol_error,
                        s.in_message ? "a new message began inside a fragmented one" : "a continuation without a beginning");
        if (s.frame.size > max_message_ - s.message.size()) return broken(close_code::too_big, too_big_text);
        if (!s.in_message) {
          s.message_op = s.frame.op;
          s.utf8 = {};
        }
      }
      s.in_frame = true;
    }

    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(s.frame.size - s.taken, input.size()));
    if (role_ == role::server) apply_mask(input.data(), size, s.frame.key, static_cast<std::size_t>(s.taken));
    const std::string_view piece{input.data(), size};
    input = input.subspan(size);
    s.taken += size;
    const bool whole = s.taken == s.frame.size;

    if (is_control(s.frame.op)) {
      std::ranges::copy(piece, s.control.begin() + s.control_size);
      s.control_size = static_cast<std::uint8_t>(s.control_size + size);
      if (!whole) return {};
      s.in_frame = false;
      s.handed_out = state::handed::control;
      return finish(s.frame.op, {s.control.data(), s.control_size});
    }

    if (s.message_op == opcode::text && !s.utf8.feed(piece)) return broken(close_code::invalid_data, not_utf8_text);
    s.message += piece;
    if (!whole) return {};
    s.in_frame = false;
    s.in_message = !s.frame.final;
    if (s.frame.final) {
      if (s.message_op == opcode::text && !s.utf8.complete()) return broken(close_code::invalid_data, not_utf8_text);
      s.handed_out = state::handed::message;
      return finish(s.message_op, s.message);
    }
  }
}

item parser::finish(opcode op, std::string_view payload) {
  switch (op) {
    case opcode::text: return {item::what::text, 0, payload};
    case opcode::binary: return {item::what::binary, 0, payload};
    case opcode::ping: return {item::what::ping, 0, payload};
    case opcode::pong: return {item::what::pong, 0, payload};
    default: break;
  }
  if (payload.empty()) {
    ended_ = true;
    return {item::what::close, close_code::none, {}};
  }
  if (payload.size() == 1) return broken(close_code::protocol_error, "a close frame's code is two bytes");
  const auto code = load_big<std::uint16_t>(payload.data());
  if (!is_sendable_close_code(code)) return broken(close_code::protocol_error, "a close code that must not be sent");
  if (!is_utf8(payload.substr(2))) return broken(close_code::invalid_data, "a close reason must be UTF-8");
  ended_ = true;
  return {item::what::close, code, payload.substr(2)};
}

}  // namespace postbus::websocket
