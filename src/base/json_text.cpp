#include "base/json_text.hpp"

#include <array>
#include <cstdint>
#include <cstring>

namespace postbus {
namespace {

// For each byte: 0 = copied as it is, 'u' = \u00XX, anything else = the letter after the backslash.
constexpr auto escapes = [] {
  std::array<char, 256> table{};
  for (std::size_t byte = 0; byte < 0x20; ++byte) table[byte] = 'u';
  table['\b'] = 'b';
  table['\f'] = 'f';
  table['\n'] = 'n';
  table['\r'] = 'r';
  table['\t'] = 't';
  table['"'] = '"';
  table['\\'] = '\\';
  return table;
}();

constexpr bool continues(unsigned char byte) { return (byte & 0xc0) == 0x80; }

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  out += '"';
  std::size_t copied = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const char escape = escapes[byte];
    if (escape == 0) continue;
    out.append(text.data() + copied, i - copied);
    copied = i + 1;
    out += '\\';
    out += escape;
    if (escape == 'u') {
      out += "00";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    }
  }
  out.append(text.data() + copied, text.size() - copied);
  out += '"';
}

bool is_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = p + text.size();
  while (p < end) {
    if (end - p >= 8) {  // eight ASCII bytes at a time
      std::uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080u) == 0) {
        p += 8;
        continue;
      }
    }
    const unsigned char lead = *p;
    if (lead < 0x80) {
      ++p;
    } else if (lead >= 0xc2 && lead <= 0xdf) {
      if (end - p < 2 || !continues(p[1])) return false;
      p += 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      if (end - p < 3 || !continues(p[1]) || !continues(p[2])) return false;
      if (lead == 0xe0 && p[1] < 0xa0) return false;
      if (lead == 0xed && p[1] >= 0xa0) return false;
      p += 3;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      if (end - p < 4 || !continues(p[1]) || !continues(p[2]) || !continues(p[3])) return false;
      if (lead == 0xf0 && p[1] < 0x90) return false;
      if (lead == 0xf4 && p[1] >= 0x90) return false;
      p += 4;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace postbus
