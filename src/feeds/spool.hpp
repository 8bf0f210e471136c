#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "bus/position.hpp"
#include "changes/visibility.hpp"

namespace postbus::feeds {

/** What all spools together may hold. */
struct spool_space {
  std::size_t most = std::size_t{4} << 30;
  std::size_t memory = 8u << 20;  ///< of one spool; beyond it its pieces go to a file
  std::atomic<std::size_t> held{0};
};

/** Where the rows of a snapshot end and changes begin. */
struct snapshot_join {
  changes::snapshot seen;  ///< what the rows hold
  bus::position from;      ///< events after it whose transaction is not seen belong behind the rows
  bus::position through;   ///< up to here `seen` decides; everything after it belongs behind the rows
};

/**
 * The rows of one snapshot between the database, which gives them as fast as it can, and clients, who take them at their own
 * speed. Pieces of rows are kept in memory up to a bound and beyond it in a file that has no name any more, so that nothing
 * stays behind whatever ends the process. The file is written and read without waiting for anything but the disk.
 *
 * One thread writes; spool_readers read on any. Lives as long as somebody holds it.
 */
class spool : public std::enable_shared_from_this<spool> {
public:
  /** `space` must outlive it. */
  spool(spool_space& space, std::string channel);
  spool(const spool&) = delete;
  spool& operator=(const spool&) = delete;
  ~spool();

  // The writer.

  /** Where the next row's payload is appended; then `end_row`. */
  std::string& begin_row();
  /** errc::too_large: the spools hold more than they may; errc::io: the file cannot be written. */
  result<> end_row();
  /** All rows are in; errors as end_row. */
  result<> end_rows();
  /** How the rows are joined with the stream: the end. */
  void joined(snapshot_join join);
  /** The end, when the rows cannot be completed. */
  void fail(error why);
  /** Nobody reads it or waits for it. */
  bool abandoned() const { return readers_.load() == 0; }

  const std::string& channel() const { return channel_; }
  /** When the snapshot was taken; the rows' time. Set before the first reader is given out. */
  unix_micros time{};
  std::atomic<std::int64_t> estimated{-1};  ///< rows the table has, about; -1: not known
  std::uint64_t rows() const { return rows_.load(); }
  int readers() const { return readers_.load(); }

private:
  friend class spool_reader;
  struct piece {
    std::shared_ptr<const std::string> bytes;  ///< null: in the file
    std::uint64_t at{};
    std::size_t size{};
  };
  result<> seal();
  result<int> open_file();
  void wake_all();

  spool_space& space_;
  const std::string channel_;
  std::string open_;  ///< the piece in the making
  std::size_t row_at_{};
  std::size_t in_memory_{}, counted_{};
  std::atomic<std::uint64_t> rows_{};
  std::atomic<int> readers_{};

  mutable std::mutex guard_;  // of everything below
  std::vector<piece> pieces_;
  int file_{-1};
  std::uint64_t file_size_{};
  bool all_rows_{};
  std::optional<snapshot_join> join_;
  std::optional<error> failed_;
  std::vector<std::function<void()>> wakes_;
};

/** One subscriber's way through a spool: all rows, then how to go on. One thread. */
class spool_reader {
public:
  explicit spool_reader(std::shared_ptr<spool> of) : spool_{std::move(of)} { ++spool_->readers_; }
  spool_reader(const spool_reader&) = delete;
  spool_reader& operator=(const spool_reader&) = delete;
  ~spool_reader() { --spool_->readers_; }

  /**
   * The next row's payload, valid until the next call; nullopt when there is none now. Then, and when it is not `finished`,
   * `wake` is called once, from the writer's thread and maybe from within, as soon as there is more. errc::io, or why the
   * rows could not be completed.
   */
  result<std::optional<std::string_view>> next(const std::function<void()>& wake);
  /** All rows have been taken and it is known how to go on. */
  bool finished() const { return join_.has_value(); }
  /** Once finished. */
  const snapshot_join& join() const { return *join_; }
  const std::string& channel() const { return spool_->channel(); }
  unix_micros time() const { return spool_->time; }
  std::uint64_t rows() const { return rows_; }

private:
  std::shared_ptr<spool> spool_;
  std::size_t next_piece_{};
  std::shared_ptr<const std::string> piece_;
  std::size_t at_{};
  std::uint64_t rows_{};
  std::optional<snapshot_join> join_;
};

}  // namespace postbus::feeds
