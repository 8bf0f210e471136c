#pragma once
#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered/unordered_flat_set.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "postgres/pgoutput.hpp"

namespace postbus::changes {

struct spill_limits {
  std::size_t memory{4u << 20};          ///< bytes of one transaction kept in memory; the rest goes to a file
  std::uint64_t disk{std::uint64_t{8} << 30};  ///< bytes in files, over all transactions under way; a transaction beyond it is lost
  std::string folder;                    ///< of the files, which have no name; empty: TMPDIR, or /tmp
};

/** Bytes in files at this moment, over all transactions. */
using spill_account = std::shared_ptr<std::uint64_t>;

/**
 * One large transaction that the server streams while it runs: its messages in order, first in memory, then in a
 * temporary file without a name, which goes with it. Reads and writes of the file block, on the page cache as a rule.
 * One thread. Lost for good when the disk's bound is reached or the file fails: see `lost`.
 */
class kept_transaction {
public:
  kept_transaction(const spill_limits& limits, spill_account on_disk) : limits_{limits}, on_disk_{std::move(on_disk)} {}
  kept_transaction(const kept_transaction&) = delete;
  kept_transaction& operator=(const kept_transaction&) = delete;
  ~kept_transaction();

  /** `at`: where its record stands in the WAL, as the frame says. */
  void add(const postgres::pgoutput::streamed_message& m, std::uint64_t at);
  /** What subtransaction `subxid` did does not count. */
  void undo(std::uint32_t subxid) { undone_.insert(subxid); }
  /** It holds messages of ours. The server gives all of them the whole transaction's id, so that no `undo` reaches them. */
  bool posted() const { return posted_; }
  /** Why nothing of it is kept any more; empty while all is. */
  const std::string& lost() const { return lost_; }

  struct message {
    std::uint64_t at{};
    std::string_view payload;  ///< as pgoutput::decode takes it
  };
  /** After the last `add`: the next message that counts; nullopt at the end. Valid until the next call. errc::io. */
  result<std::optional<message>> next();

private:
  void write_out();
  void lose(std::string why);
  result<std::string_view> bytes(std::size_t count);

  const spill_limits& limits_;
  spill_account on_disk_;
  std::string memory_;  // what has not been written to the file; all of it where there is no file
  boost::unordered_flat_set<std::uint32_t> undone_;
  std::string lost_;
  bool posted_{};
  int file_{-1};
  std::uint64_t written_{};
  // Reading.
  std::uint64_t read_{};  // bytes of the file taken into window_
  std::string window_;
  std::size_t at_{};
  bool from_memory_{};
};

/** The transactions that are being streamed, and the block that is open. I/O-free but for the files. One thread. */
class streamed_transactions {
public:
  explicit streamed_transactions(spill_limits limits) : limits_{std::move(limits)} {}

  bool in_block() const { return open_ != nullptr; }
  /** A block begins. errc::protocol within another. */
  result<> start(const postgres::pgoutput::stream_start& block);
  /** A message within the open block, with its place in the WAL, or the block's end. */
  result<> take(std::string_view payload, std::uint64_t at);
  /** A rollback of the whole or of a part. False: of a part of one that has posted; what of that counts cannot be known here. */
  bool abort(const postgres::pgoutput::stream_abort& which);
  /** Gives a committed transaction away; errc::protocol when it was never begun. */
  result<std::unique_ptr<kept_transaction>> take_out(std::uint32_t xid);
  /** The stream ended: the server will send all of them again. */
  void clear();

  std::size_t under_way() const { return kept_.size(); }
  std::uint64_t on_disk() const { return *on_disk_; }

private:
  const spill_limits limits_;
  spill_account on_disk_ = std::make_shared<std::uint64_t>();
  boost::unordered_flat_map<std::uint32_t, std::unique_ptr<kept_transaction>> kept_;
  kept_transaction* open_{};
};

}  // namespace postbus::changes
