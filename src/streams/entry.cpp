#include "streams/entry.hpp"

namespace postbus::streams {
namespace {

void append(std::string& out, std::uint64_t value, int digits) {
  constexpr std::string_view hex = "0123456789abcdef";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += hex[(value >> shift) & 15];
}

std::uint64_t number(std::string_view digits) {
  std::uint64_t value = 0;
  for (const char c : digits) value = value << 4 | static_cast<std::uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  return value;
}

}  // namespace

void append_hex(std::string& out, const entry& e) {
  append(out, e.lsn, 16);
  append(out, e.index, 8);
  append(out, e.bytes, 8);
  append(out, static_cast<std::uint64_t>(e.time), 16);
  append(out, e.id, 16);
}

entry parse_hex(std::string_view hex, std::size_t offset) {
  const auto part = [&](std::size_t at, std::size_t digits) { return number(hex.substr(offset + at, digits)); };
  return {.lsn = part(0, 16),
          .index = static_cast<std::uint32_t>(part(16, 8)),
          .bytes = static_cast<std::uint32_t>(part(24, 8)),
          .time = static_cast<unix_micros>(part(32, 16)),
          .id = part(48, 16)};
}

}  // namespace postbus::streams
