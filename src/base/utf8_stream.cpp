#include "base/utf8_stream.hpp"

#include <cstring>

namespace postbus {

// The table of RFC 3629 section 4: the first continuation byte's bounds depend on the lead byte, all others are 80..BF.
bool utf8_stream::feed(std::string_view piece) {
  const auto* p = reinterpret_cast<const unsigned char*>(piece.data());
  const auto* const end = p + piece.size();
  while (p != end) {
    if (needed_ == 0 && end - p >= 8) {  // eight ASCII bytes at a time
      std::uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080u) == 0) {
        p += 8;
        continue;
      }
    }
    const unsigned char byte = *p++;
    if (needed_ > 0) {
      if (byte < low_ || byte > high_) return false;
      low_ = 0x80;
      high_ = 0xbf;
      --needed_;
    } else if (byte >= 0x80) {
      if (byte >= 0xc2 && byte <= 0xdf) {
        needed_ = 1;
      } else if (byte >= 0xe0 && byte <= 0xef) {
        needed_ = 2;
        if (byte == 0xe0) low_ = 0xa0;
        if (byte == 0xed) high_ = 0x9f;
      } else if (byte >= 0xf0 && byte <= 0xf4) {
        needed_ = 3;
        if (byte == 0xf0) low_ = 0x90;
        if (byte == 0xf4) high_ = 0x8f;
      } else {
        return false;
      }
    }
  }
  return true;
}

}  // namespace postbus
