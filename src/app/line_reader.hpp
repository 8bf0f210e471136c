#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::app {

/**
 * Lines of a file descriptor, with bounded memory. Knows which lines are here already, so that a caller can send what has
 * come without waiting for more. A last line without a line end counts; a \r before the line end is kept.
 */
class line_reader {
public:
  static constexpr std::size_t longest_line = 64u << 20;

  explicit line_reader(int fd) : fd_{fd} {}

  /** The next line, waiting for input; nothing at the end. errc::too_large for a line over the bound, errc::io when reading fails. */
  result<std::optional<std::string>> next();
  /** A whole line is here: next() will not wait. */
  bool ready() const { return buffer_.find('\n', start_) != std::string::npos; }

private:
  int fd_;
  std::string buffer_;
  std::size_t start_{};
  bool ended_{};
};

}  // namespace postbus::app
