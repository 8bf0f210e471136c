#pragma once
#include <cstdint>
#include <string_view>

namespace postbus {

/** Checks UTF-8 (RFC 3629) that arrives in pieces; fails at the first byte that cannot be part of any valid text. */
class utf8_stream {
public:
  /** False once the text is broken. */
  bool feed(std::string_view piece);
  /** True when no character is cut off at the end. */
  bool complete() const { return needed_ == 0; }

private:
  std::uint8_t needed_{};     // continuation bytes still to come
  std::uint8_t low_{0x80};    // bounds of the next one
  std::uint8_t high_{0xbf};
};

}  // namespace postbus
