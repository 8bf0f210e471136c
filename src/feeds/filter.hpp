#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace postbus::feeds {

enum class comparison : std::uint8_t { equal, not_equal, less, less_equal, greater, greater_equal };

/** A literal as it was written; `text` is without quotes. */
struct literal {
  enum class what : std::uint8_t { null, text, number, boolean } is{what::null};
  std::string text;
  std::size_t at{};  ///< where it begins in the filter, from 1
};

/** One part of a filter as it was written: names and literals, no types yet. */
struct filter_part {
  enum class op : std::uint8_t { and_, or_, not_, compare, in, like, is_null } is{op::and_};
  comparison how{comparison::equal};   ///< compare
  bool negated{};                      ///< NOT IN, NOT LIKE, IS NOT NULL
  std::string column;                  ///< of all but and_, or_, not_
  std::size_t at{};                    ///< where the column stands, from 1
  std::vector<literal> literals;       ///< compare and like: one; in: one or more
  std::string escape{"\\"};            ///< like: one character or nothing
  std::vector<filter_part> parts;      ///< and_, or_: two or more; not_: one
};

inline constexpr std::size_t max_filter_bytes = 8192;
inline constexpr std::size_t max_filter_literals = 1000;
inline constexpr int max_filter_depth = 32;
inline constexpr std::size_t max_like_bytes = 1000;

/**
 * Reads a filter: comparisons of a column with a literal (= <> != < <= > >=), [NOT] IN (…), [NOT] LIKE … [ESCAPE …],
 * IS [NOT] NULL, AND, OR, NOT, parentheses; a column alone is a boolean. A subset of SQL with SQL's precedence, its quoting
 * and its folding of names; docs/filters.md has the grammar. errc::invalid_argument tells what is wrong and where. I/O-free.
 */
result<filter_part> parse_filter(std::string_view text);

/** A filter that was given says something: errc::invalid_argument for blanks, which a client that lost its filter sends. */
result<> check_given(std::string_view filter);

/** Names of columns with commas between them, written as in a filter. errc::invalid_argument. */
result<std::vector<std::string>> parse_names(std::string_view text);

}  // namespace postbus::feeds
