#include "postgres/server_words.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <sstream>
#include <string>

namespace postbus::postgres {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t log_limit = 8U << 20U;

}  // namespace

std::string causes(std::string_view output) {
  std::string found;
  std::istringstream lines{std::string{output}};
  for (std::string line; std::getline(lines, line);)
    for (const char* mark : {"FATAL: ", "PANIC: ", "ERROR: ", "error: ", "HINT: ", "could not "})
      // A session's own failures ("user@database" in the prefix) did not end the server.
      if (const auto at = line.find(mark); at != std::string::npos && line.rfind('@', at) == std::string::npos) {
        found += (found.empty() ? "" : "\n") + line;
        break;
      }
  return found;
}

error explain(std::string what, const fs::path& folder, std::string_view output, std::uint16_t port) {
  const auto has = [&](std::string_view text) { return output.find(text) != std::string_view::npos; };
  if (has("No space left on device"))
    return {
        errc::io,
        fmt::format("{}: the disk that holds '{}' is full; free some space or give another folder with --data DIR", what, folder.string()),
        causes(output)};
  if (has("Address already in use"))
    return {errc::conflict,
            fmt::format("{}: port {} of 127.0.0.1 is in use by another program; stop it or choose another port", what, port),
            causes(output)};
  if (has("Permission denied"))
    return {errc::io,
            fmt::format("{}: the server's user may not use '{}'; every folder above it must be open to it (/root is not); "
                        "choose another one with --data DIR",
                        what, folder.string()),
            causes(output)};
  return {errc::io, fmt::format("{}; its messages are in '{}'", what, (folder / "postgres.log").string()), causes(output)};
}

void message_log::append(std::string_view bytes) {
  if (bytes.empty()) return;
  std::error_code ignored;
  if (const auto size = fs::file_size(path_, ignored); !ignored && size > log_limit) fs::rename(path_, path_.string() + ".1", ignored);
  // Opened for each piece: pieces are rare, and whoever moved the file away gets a new one.
  const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  if (::write(fd, bytes.data(), bytes.size()) < 0) ignored.clear();  // a full disk must not stop the supervisor
  ::close(fd);
}

}  // namespace postbus::postgres
