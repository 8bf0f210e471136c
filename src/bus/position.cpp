#include "bus/position.hpp"

namespace postbus::bus {
namespace {

void append_hex(std::string& out, std::uint64_t value, int digits) {
  constexpr std::string_view hex = "0123456789abcdef";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += hex[(value >> shift) & 15];
}

bool parse_hex(std::string_view text, std::uint64_t& value) {
  value = 0;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return false;
    value = value << 4 | static_cast<std::uint64_t>(digit);
  }
  return true;
}

}  // namespace

position just_before(const position& at) {
  return at.index > 0 ? position{at.epoch, at.lsn, at.index - 1} : position{at.epoch, at.lsn - 1, position::end_of_commit};
}

void append_text(std::string& out, const position& at) {
  append_hex(out, at.epoch, 8);
  out += '-';
  append_hex(out, at.lsn, 16);
  out += '-';
  append_hex(out, at.index, 8);
}

std::string to_text(const position& at) {
  std::string out;
  out.reserve(position::text_size);
  append_text(out, at);
  return out;
}

result<position> parse_position(std::string_view text) {
  std::uint64_t epoch = 0, lsn = 0, index = 0;
  if (text.size() != position::text_size || text[8] != '-' || text[25] != '-' || !parse_hex(text.substr(0, 8), epoch) ||
      !parse_hex(text.substr(9, 16), lsn) || !parse_hex(text.substr(26, 8), index))
    return error{errc::invalid_position,
                 "a position looks like 5f3a9c01-0000000a1b2c3d40-00000003; give one that an event carried, or 'beginning' or 'now'"};
  return position{static_cast<std::uint32_t>(epoch), lsn, static_cast<std::uint32_t>(index)};
}

}  // namespace postbus::bus
