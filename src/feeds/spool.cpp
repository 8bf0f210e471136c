#include "feeds/spool.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/metrics.hpp"

namespace postbus::feeds {
namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
using length = std::uint32_t;

error no_file(const char* what) {
  return {errc::io, "the gateway cannot keep the rows of a snapshot: see its log", fmt::format("{}: {}", what, std::strerror(errno))};
}

}  // namespace

spool::spool(spool_space& space, std::string channel) : space_{space}, channel_{std::move(channel)} {}

spool::~spool() {
  space_.held -= counted_;
  metrics::adjust(metrics::gauge::snapshot_bytes, -static_cast<std::int64_t>(counted_));
  if (file_ >= 0) ::close(file_);
}

std::string& spool::begin_row() {
  row_at_ = open_.size();
  open_.append(sizeof(length), '\0');
  return open_;
}

result<> spool::end_row() {
  const auto size = static_cast<length>(open_.size() - row_at_ - sizeof(length));
  std::memcpy(open_.data() + row_at_, &size, sizeof size);
  rows_.store(rows_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return open_.size() >= piece_bytes ? seal() : result<>{};
}

result<int> spool::open_file() {
  const char* const named = std::getenv("TMPDIR");
  const std::string folder = named != nullptr && *named != '\0' ? named : "/tmp";
  int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
  if (fd < 0) {  // a file system without O_TMPFILE
    auto name = folder + "/postbus-snapshot-XXXXXX";
    fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) ::unlink(name.c_str());
  }
  if (fd < 0) return no_file("a temporary file");
  return fd;
}

result<> spool::seal() {
  if (open_.empty()) return {};
  piece made{.bytes = nullptr, .at = file_size_, .size = open_.size()};
  if (space_.held.fetch_add(made.size) + made.size > space_.most) {
    space_.held -= made.size;
    return error{errc::too_large, fmt::format("the snapshots under way would take more than {} bytes on the gateway's disk: come back "
                                              "later, or give it more (--snapshot-bytes)",
                                              space_.most)};
  }
  counted_ += made.size;
  metrics::adjust(metrics::gauge::snapshot_bytes, static_cast<std::int64_t>(made.size));
  if (in_memory_ + made.size <= space_.memory) {
    in_memory_ += made.size;
    made.bytes = std::make_shared<const std::string>(std::exchange(open_, {}));
    open_.reserve(piece_bytes + 4096);
  } else {
    if (file_ < 0) {
      auto opened = open_file();
      if (!opened) return opened.error();
      const std::scoped_lock lock{guard_};
      file_ = *opened;
    }
    for (std::size_t done = 0; done < open_.size();) {
      const auto written = ::pwrite(file_, open_.data() + done, open_.size() - done, static_cast<off_t>(file_size_ + done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return no_file("writing the temporary file");
      done += static_cast<std::size_t>(written);
    }
    file_size_ += open_.size();
    open_.clear();
    if (open_.capacity() > 16 * piece_bytes) open_ = {};
  }
  {
    const std::scoped_lock lock{guard_};
    pieces_.push_back(std::move(made));
  }
  wake_all();
  return {};
}

result<> spool::end_rows() {
  auto sealed = seal();
  if (!sealed) return sealed;
  const std::scoped_lock lock{guard_};
  all_rows_ = true;
  return {};
}

void spool::joined(snapshot_join join) {
  {
    const std::scoped_lock lock{guard_};
    join_ = std::move(join);
  }
  wake_all();
}

void spool::fail(error why) {
  {
    const std::scoped_lock lock{guard_};
    if (join_) return;
    failed_ = std::move(why);
  }
  wake_all();
}

void spool::wake_all() {
  std::vector<std::function<void()>> all;
  {
    const std::scoped_lock lock{guard_};
    all.swap(wakes_);
  }
  for (const auto& wake : all) wake();
}

result<std::optional<std::string_view>> spool_reader::next(const std::function<void()>& wake) {
  if (piece_ && at_ == piece_->size()) piece_.reset();
  if (!piece_) {
    spool::piece found;
    int file;
    {
      const std::scoped_lock lock{spool_->guard_};
      if (spool_->failed_) return *spool_->failed_;
      if (next_piece_ == spool_->pieces_.size()) {
        if (spool_->join_)
          join_ = spool_->join_;
        else
          spool_->wakes_.push_back(wake);
        return std::optional<std::string_view>{};
      }
      found = spool_->pieces_[next_piece_++];
      file = spool_->file_;
    }
    if (!found.bytes) {
      std::string bytes(found.size, '\0');
      for (std::size_t done = 0; done < bytes.size();) {
        const auto got = ::pread(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(found.at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return no_file("reading the temporary file");
        done += static_cast<std::size_t>(got);
      }
      found.bytes = std::make_shared<const std::string>(std::move(bytes));
    }
    piece_ = std::move(found.bytes);
    at_ = 0;
  }
  length size;
  std::memcpy(&size, piece_->data() + at_, sizeof size);
  const std::string_view row{piece_->data() + at_ + sizeof size, size};
  at_ += sizeof size + size;
  ++rows_;
  return std::optional{row};
}

}  // namespace postbus::feeds
