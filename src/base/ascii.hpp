#pragma once
#include <algorithm>
#include <string_view>

namespace postbus {

constexpr char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

/** Equal but for the case of ASCII letters: names of header fields, hosts, schemes. */
constexpr bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return ascii_lower(x) == ascii_lower(y); });
}

}  // namespace postbus
