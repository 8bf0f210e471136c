#pragma once
#include <charconv>
#include <string_view>

namespace postbus {

/** A decimal number that the database wrote, or another writer to be trusted; 0 where there is none, for NULL. */
template <class Int>
Int number(std::string_view text) {
  Int value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace postbus
