#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "feeds/filter.hpp"

namespace postbus::feeds {

/**
 * A pattern of LIKE, and which texts match it: UTF-8 both, as PostgreSQL judges them.
 *
 * It is all places of the pattern that the text read so far may have come to, a bit for each, moved on by one byte after
 * another. So a text is read once, whatever it and the pattern are: a byte costs a few operations on each of `words()`
 * machine words, which are 16 at most. (R. Baeza-Yates, G. Gonnet: A New Approach to Text Searching, 1992.)
 *
 * Immutable; any thread.
 */
class like_pattern {
public:
  /** `pattern` has at most max_like_bytes and does not end with `escape`, one character or none. */
  like_pattern(std::string_view pattern, std::string_view escape);

  bool matches(std::string_view text) const { return matches(text.begin(), text.end()); }
  template <class Bytes>
  bool matches(Bytes next, Bytes end) const;

  static constexpr std::size_t word_bits = 64, most_words = (max_like_bytes + word_bits) / word_bits;
  std::size_t words() const { return words_; }

private:
  using word = std::uint64_t;
  bool at_end(const std::array<word, most_words>& places) const { return (places[end_ / word_bits] >> (end_ % word_bits) & 1) != 0; }
  void set(std::size_t row, std::size_t place) { rows_[row * words_ + place / word_bits] |= word{1} << (place % word_bits); }
  const word* row(std::size_t of) const { return rows_.data() + of * words_; }

  // Rows of words_ words. Places that stay whatever byte comes: behind a %. Those that stay where the byte goes on with a
  // character: behind a _ as well. Then for each byte that the pattern has, and one each for the others that begin or go on with a
  // character: places that it leads to.
  static constexpr std::size_t staying = 0, staying_within = 1, beginning = 2, going_on = 3, first_own = 4;
  std::size_t end_{}, words_{};
  bool open_end_{};  ///< it ends in %
  std::array<std::uint16_t, 256> row_of_{};
  std::vector<word> rows_;
};

template <class Bytes>
bool like_pattern::matches(Bytes next, Bytes end) const {
  std::array<word, most_words> places{1};
  for (; next != end; ++next) {
    if (open_end_ && at_end(places)) return true;
    const auto byte = static_cast<unsigned char>(*next);
    const word* const led_to = row(row_of_[byte]);
    const word* const stay = row((byte & 0xc0) == 0x80 ? staying_within : staying);
    word carry = 0, any = 0;
    for (std::size_t i = 0; i < words_; ++i) {
      const auto was = places[i];
      any |= places[i] = (((was << 1) | carry) & led_to[i]) | (was & stay[i]);
      carry = was >> (word_bits - 1);
    }
    if (any == 0) return false;
  }
  return at_end(places);
}

}  // namespace postbus::feeds
