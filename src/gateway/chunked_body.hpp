#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::gateway {

/**
 * Takes a chunked body apart (RFC 7230 section 4.1) as it arrives, byte for byte strict: lines end with CR LF, sizes are plain
 * hex digits. Chunk extensions and trailer fields are read over; both are bounded together by `overhead_limit` bytes.
 */
class chunked_body {
public:
  chunked_body(std::size_t body_limit, std::size_t overhead_limit) : body_limit_{body_limit}, overhead_left_{overhead_limit} {}

  /** Appends data to `out` and returns how many bytes were taken: fewer than given only at the end, or after a failure. */
  std::size_t feed(std::string_view bytes, std::string& out);
  bool complete() const { return at_ == at::complete; }
  bool failed() const { return at_ == at::failed; }
  const error& failure() const { return failure_; }

private:
  enum class at : std::uint8_t {
    size,
    size_more,
    extension,
    size_end,
    data,
    data_cr,
    data_lf,
    line,
    name,
    value,
    line_end,
    last_end,
    complete,
    failed
  };
  at step(char c, std::size_t already);
  at fail(errc code, std::string text);

  std::size_t body_limit_;
  std::size_t overhead_left_;
  std::uint64_t left_{};  // of the chunk: while its size is read, the size so far
  at at_{at::size};
  error failure_;
};

}  // namespace postbus::gateway
