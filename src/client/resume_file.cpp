#include "client/resume_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "bus/channel.hpp"
#include "bus/position.hpp"

namespace postbus::remote {
namespace {

constexpr std::string_view first_line = "postbus-resume 1\n";
constexpr std::size_t max_file_bytes = 64u << 20;

/** A file descriptor that closes itself. */
class descriptor {
public:
  explicit descriptor(int fd) : fd_{fd} {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

private:
  int fd_;
};

error failed(std::string_view what, std::string_view path, int reason) {
  return error{errc::io, fmt::format("cannot {} {}: {}", what, path, std::strerror(reason))};
}

error unreadable(std::string_view why) {
  return error{errc::invalid_argument, fmt::format("not a resume file ({}): give another path, or remove the file to start anew", why)};
}

}  // namespace

std::string format_resume(const channel_positions& positions) {
  std::string out{first_line};
  for (const auto& [channel, at] : positions) {
    out += at;
    out += ' ';
    out += channel;
    out += '\n';
  }
  return out;
}

result<channel_positions> parse_resume(std::string_view text) {
  if (!text.starts_with(first_line)) return unreadable("its first line is not 'postbus-resume 1'");
  text.remove_prefix(first_line.size());
  channel_positions out;
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) return unreadable("its last line is cut off");
    const auto line = text.substr(0, end);
    text.remove_prefix(end + 1);
    const auto space = line.find(' ');
    if (space == std::string_view::npos) return unreadable("a line without a channel");
    const auto at = line.substr(0, space), channel = line.substr(space + 1);
    if (!bus::parse_position(at) || !bus::check_channel(channel)) return unreadable("a line that is not POSITION CHANNEL");
    out.insert_or_assign(std::string{channel}, std::string{at});
  }
  return out;
}

result<channel_positions> resume_file::load() const {
  const descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!file) {
    if (errno == ENOENT) return channel_positions{};
    return failed("read", path_, errno);
  }
  std::string text;
  char block[16 * 1024];
  for (;;) {
    const auto got = ::read(file.get(), block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed("read", path_, errno);
    if (got == 0) break;
    text.append(block, static_cast<std::size_t>(got));
    if (text.size() > max_file_bytes) return unreadable("it is larger than 64 MiB");
  }
  auto parsed = parse_resume(text);
  if (!parsed) return error{parsed.error().code, path_ + ": " + parsed.error().text};
  return parsed;
}

result<> resume_file::save(const channel_positions& positions) const {
  const auto next = path_ + ".new";
  {
    const descriptor file{::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (!file) {
      auto why = failed("write", next, errno);
      why.text += "; the position is kept beside the file in its folder, which must be there and writable";
      return why;
    }
    const auto text = format_resume(positions);
    for (std::size_t written = 0; written < text.size();) {
      const auto put = ::write(file.get(), text.data() + written, text.size() - written);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return failed("write", next, errno);
      written += static_cast<std::size_t>(put);
    }
    if (::fsync(file.get()) != 0) return failed("write", next, errno);
  }
  if (::rename(next.c_str(), path_.c_str()) != 0) return failed("write", path_, errno);
  // The rename itself is durable once the folder is.
  const auto folder = std::filesystem::path{path_}.parent_path();
  const descriptor directory{::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!directory || ::fsync(directory.get()) != 0) return failed("sync the folder of", path_, errno);
  return {};
}

}  // namespace postbus::remote
