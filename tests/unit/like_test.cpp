#include "feeds/like.hpp"

#include <gtest/gtest.h>

#include <iterator>
#include <random>
#include <string>

namespace postbus::feeds {
namespace {

std::size_t character(std::string_view text) {
  std::size_t n = 1;
  while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xc0) == 0x80) ++n;
  return n;
}

/** What LIKE means, for short texts. */
bool is_like(std::string_view text, std::string_view pattern, char escape) {
  if (pattern.empty()) return text.empty();
  if (pattern.front() == escape) {
    pattern.remove_prefix(1);
  } else if (pattern.front() == '%') {
    if (is_like(text, pattern.substr(1), escape)) return true;
    return !text.empty() && is_like(text.substr(character(text)), pattern, escape);
  } else if (pattern.front() == '_') {
    return !text.empty() && is_like(text.substr(character(text)), pattern.substr(1), escape);
  }
  return !text.empty() && text.front() == pattern.front() && is_like(text.substr(1), pattern.substr(1), escape);
}

TEST(like, means_what_it_says) {
  std::mt19937 random{20261126};
  const auto make = [&](std::initializer_list<std::string_view> of, std::size_t most) {
    std::string made;
    for (auto n = random() % (most + 1); n > 0; --n) made += of.begin()[random() % of.size()];
    return made;
  };
  int matched = 0;
  for (int i = 0; i < 200'000; ++i) {
    const auto pattern = make({"%", "%", "_", "a", "b", "ä", "ö", "\\%", "\\_", "\\\\", "\\ä"}, 8);
    const auto text = make({"a", "a", "b", "ä", "ö", "%", "_", "\\"}, 8);
    const bool wanted = is_like(text, pattern, '\\');
    ASSERT_EQ(like_pattern(pattern, "\\").matches(text), wanted) << text << " like " << pattern;
    matched += wanted;
  }
  EXPECT_GT(matched, 10'000);
  EXPECT_TRUE(like_pattern("", "").matches(""));
  EXPECT_FALSE(like_pattern("", "").matches("a"));
  EXPECT_TRUE(like_pattern("aä%%", "ä").matches("a%x"));
  EXPECT_TRUE(like_pattern("a\\_c", "").matches("a\\bc"));
}

TEST(like, is_right_where_the_pattern_takes_several_words) {
  std::mt19937 random{7};
  for (std::size_t size = 1; size <= max_like_bytes; ++size) {
    std::string text, pattern;
    for (std::size_t i = 0; i < size; ++i) {
      text += static_cast<char>('a' + random() % 26);
      pattern += random() % 8 == 0 ? '_' : text.back();
    }
    const like_pattern whole{pattern, "\\"};
    EXPECT_TRUE(whole.matches(text)) << size;
    EXPECT_FALSE(whole.matches(text + 'x')) << size;
    EXPECT_FALSE(whole.matches(text.substr(1))) << size;
    if (size >= 3) {
      pattern[size / 2] = '%';
      EXPECT_TRUE(like_pattern(pattern, "\\").matches(text + text)) << size;
    }
  }
}

/** Counts what is read through it. */
struct counted {
  const char* at;
  std::size_t* reads;
  char operator*() const { return ++*reads, *at; }
  counted& operator++() { return ++at, *this; }
  bool operator!=(const counted& other) const { return at != other.at; }
};

TEST(like, reads_a_text_once_however_hostile_the_pattern_is) {
  const auto repeated = [](std::string_view part, std::size_t bytes) {
    std::string made;
    while (made.size() + part.size() <= bytes) made += part;
    return made;
  };
  const std::string hostile[] = {repeated("%a", max_like_bytes - 1) + 'b', '%' + repeated("a", max_like_bytes - 2) + 'b',
                                 '%' + repeated("_", max_like_bytes - 2) + 'b', repeated("%_a", max_like_bytes - 1) + 'b',
                                 '%' + repeated("aä_", max_like_bytes - 2) + '_'};
  const auto text = repeated("a", 1u << 20);
  for (const auto& pattern : hostile) {
    ASSERT_LE(pattern.size(), max_like_bytes);
    const like_pattern p{pattern, "\\"};
    std::size_t reads = 0;
    EXPECT_FALSE(p.matches(counted{text.data(), &reads}, counted{text.data() + text.size(), &reads}));
    EXPECT_EQ(reads, text.size());
    EXPECT_LE(p.words(), 16u);
  }
}

}  // namespace
}  // namespace postbus::feeds
