#include "feeds/like.hpp"

#include <string>

namespace postbus::feeds {
namespace {

bool goes_on(std::size_t byte) { return (byte & 0xc0) == 0x80; }

}  // namespace

like_pattern::like_pattern(std::string_view pattern, std::string_view escape) {
  // Each step is a byte or any character ('_'); a % lets the place in front of a step stay.
  struct step {
    unsigned char byte;
    bool any;
  };
  std::vector<step> steps;
  std::vector<bool> stays(1);
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const bool plain = !escape.empty() && pattern.substr(i).starts_with(escape);
    if (plain) i += escape.size();
    // An escaped character may have several bytes; those behind the first are no wildcards anyway.
    const auto byte = static_cast<unsigned char>(pattern[i]);
    if (!plain && byte == '%') {
      stays.back() = true;
      continue;
    }
    steps.push_back({.byte = byte, .any = !plain && byte == '_'});
    stays.push_back(false);
  }
  end_ = steps.size();
  open_end_ = stays.back();
  words_ = end_ / word_bits + 1;

  std::size_t rows = first_own;
  for (std::size_t byte = 0; byte < row_of_.size(); ++byte) row_of_[byte] = goes_on(byte) ? going_on : beginning;
  for (const auto& s : steps)
    if (!s.any && row_of_[s.byte] < first_own) row_of_[s.byte] = static_cast<std::uint16_t>(rows++);
  rows_.resize(rows * words_);
  for (std::size_t place = 0; place <= end_; ++place) {
    const bool behind_any = place > 0 && steps[place - 1].any;
    if (stays[place]) set(staying, place);
    if (stays[place] || behind_any) set(staying_within, place);
    if (place == 0) continue;
    if (!behind_any) {
      set(row_of_[steps[place - 1].byte], place);
      continue;
    }
    set(beginning, place);
    for (std::size_t byte = 0; byte < row_of_.size(); ++byte)
      if (!goes_on(byte)) set(row_of_[byte], place);
  }
}

}  // namespace postbus::feeds
