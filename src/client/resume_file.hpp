#pragma once
#include <map>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::remote {

/** The position after which each channel goes on. */
using channel_positions = std::map<std::string, std::string, std::less<>>;

/**
 * The file that lets a listener go on where it stopped: a first line `postbus-resume 1`, then `POSITION CHANNEL` per line.
 * Each channel has its own position because only the order within a channel is the same for everybody.
 *
 * A save writes a new file beside it, syncs that, renames it over the old one and syncs the folder (as SQLite's and
 * LevelDB's manifests do): after a crash at any point the file holds the old positions or the new ones, whole.
 * Thread safety: none. Two listeners must not share a file.
 */
class resume_file {
public:
  explicit resume_file(std::string path) : path_{std::move(path)} {}

  /** What the file holds; nothing when it does not exist yet. errc::invalid_argument when it is no such file. */
  result<channel_positions> load() const;
  /** errc::io with the path and the reason in its text: it is the user's own path. */
  result<> save(const channel_positions& positions) const;

  const std::string& path() const { return path_; }

private:
  std::string path_;
};

/** The file's text, and back. */
std::string format_resume(const channel_positions& positions);
result<channel_positions> parse_resume(std::string_view text);

}  // namespace postbus::remote
