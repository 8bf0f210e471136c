#include "app/line_reader.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace postbus::app {

result<std::optional<std::string>> line_reader::next() {
  std::size_t searched = start_;
  for (;;) {
    if (const auto end = buffer_.find('\n', searched); end != std::string::npos) {
      std::optional<std::string> line{std::in_place, buffer_, start_, end - start_};
      start_ = end + 1;
      return line;
    }
    if (ended_) {
      if (start_ == buffer_.size()) return std::optional<std::string>{};
      std::optional<std::string> last{std::in_place, buffer_, start_};
      buffer_.clear();
      start_ = 0;
      return last;
    }
    if (start_ > 0) buffer_.erase(0, std::exchange(start_, 0));
    searched = buffer_.size();
    if (searched > longest_line) return error{errc::too_large, fmt::format("a line of the input is longer than {} bytes", longest_line)};
    constexpr std::size_t block = 64 * 1024;
    buffer_.resize(searched + block);
    const auto got = ::read(fd_, buffer_.data() + searched, block);
    const int reason = errno;
    buffer_.resize(searched + static_cast<std::size_t>(got > 0 ? got : 0));
    if (got < 0 && reason != EINTR) return error{errc::io, fmt::format("cannot read the input: {}", std::strerror(reason))};
    if (got == 0) ended_ = true;
  }
}

}  // namespace postbus::app
