#pragma once
#include <memory>
#include <optional>
#include <string>

#include "base/metrics.hpp"
#include "bus/event.hpp"
#include "changes/row_handler.hpp"
#include "postgres/pgoutput.hpp"

namespace postbus::changes {

/**
 * Makes batches of events from the frames of a stream. I/O-free.
 *
 * A transaction's events wait unpublished until its commit is read, because only the commit record says where it ends,
 * and that is their position. Committed transactions gather in one batch until the caller takes it. Of a transaction that
 * the server streamed (changes::streamed_transactions) the end is known before its first change is taken here: its events
 * may be handed out in pieces.
 *
 * An event's index is the ordinal of its change within the transaction; of one that concerns several tables each has an ordinal.
 * Changes that make no event count too, so that the same change has the same position whenever it is read again, whatever is
 * watched by then. Messages of others do not count: the server streams those that were rolled back to a savepoint, too.
 *
 * Bounds: a batch asks to be taken at `publish_bytes`. A transaction of unknown end whose events would hold more than
 * `transaction_bytes` is not delivered: its events are dropped and the caller is told of the loss at its commit.
 */
class assembler {
public:
  struct limits {
    std::size_t publish_bytes = 1u << 20;
    std::size_t transaction_bytes = 256u << 20;
  };
  /** What the caller must do before the next frame. */
  enum class want {
    nothing,
    publish,  ///< take `committed`
    resolve,  ///< await row_handler::resolve
    again,    ///< await row_handler::resolve, then give the same once more
    announce, ///< take `committed`, then announce `lost`
  };
  struct loss {
    bus::position from, to;
    std::uint64_t xid{};
    bool unpublished{};  ///< the publication, and not the transaction, left something out, perhaps since long before `from`
  };

  /** `rows` may be null: then rows are dropped. It must outlive the assembler. */
  assembler(limits given, row_handler* rows) : limits_{given}, rows_{rows} {}

  /** A new stream: everything after `start_lsn` will come. `some_xid`: any recent wide transaction id. */
  void start(std::uint32_t epoch, std::uint64_t start_lsn, std::uint64_t some_xid, int server_version);
  /** Takes the next frame. errc::protocol: the stream is broken and must be made anew. */
  result<want> take(const postgres::pgoutput::frame& frame);

  // A streamed transaction, once its commit has been read: begin, each of its changes, end.
  /** errc::protocol within another transaction. */
  result<> begin_streamed(std::uint32_t xid, const postgres::pgoutput::commit& at, unix_micros sent);
  /** Asked before a change whose record is at `next`. True: call `committed` first, which gives a piece of the transaction. */
  bool piece_is_full(std::uint64_t next);
  /** One change, as of protocol version 1, whose record is at `at`. */
  result<want> take_streamed(std::string_view payload, std::uint64_t at);
  result<want> end_streamed();
  /** A transaction that was not kept is told as a loss: call `lost` and announce it. */
  result<want> lose_streamed(std::uint32_t xid, const postgres::pgoutput::commit& at);

  /** The committed events so far, or null when there are none. An open transaction's events stay. */
  std::shared_ptr<bus::batch> committed();
  /** What `committed` gave last ends within a transaction: the rest of that is to come. */
  bool midway() const { return unfinished_ != 0 && handed_out_.lsn == unfinished_; }
  /** The stream ended: an open transaction's events are dropped; what is committed can still be taken. */
  void stop();

  /** Everything up to here has been handed out by `committed`, is in it, or was no business of ours. */
  bus::position applied() const { return applied_; }
  /** Where a stream must start so that it brings all that is not applied. */
  std::uint64_t resume_lsn() const { return resume_lsn_; }
  const loss& lost() const { return lost_; }
  /** Since the last call a transaction said that the publication was made anew: what was committed before it cannot be trusted. It may be forged. */
  bool republished() { return !open_ && std::exchange(republished_, false); }
  bool in_transaction() const { return open_; }
  /** Of the transaction that was begun last. */
  std::uint64_t xid() const { return now_.xid; }

  /** The wide transaction id of a live transaction. */
  std::uint64_t widened(std::uint32_t xid) const;

  /** The commit read last, by the server's clock: when it was made, and when its first frame was sent. */
  struct arrival {
    unix_micros committed{};
    unix_micros sent{};
  };
  const arrival& last() const { return last_; }

private:
  result<want> take_data(const postgres::pgoutput::xlog_data& data);
  result<want> take_change(const postgres::pgoutput::change& c, std::uint64_t at);
  void take_message(const postgres::pgoutput::message& m, std::uint64_t at);
  void take_text(const postgres::pgoutput::message& m);
  bool take_row(const postgres::pgoutput::change& c, std::uint64_t at);
  void move_before_record(std::size_t message);
  void number_new_events(std::size_t before);
  void begin(std::uint32_t xid, unix_micros commit_time, unix_micros sent);
  result<want> commit(const postgres::pgoutput::commit& c);
  void place_open_events(std::uint64_t end_lsn);
  void check_size();
  std::size_t open_events() const { return batch_->events().size() - first_; }
  void drop(metrics::counter why, const char* what);

  limits limits_;
  row_handler* rows_;
  std::uint32_t epoch_{};
  std::uint64_t wide_xid_{};
  bus::position applied_{};
  std::uint64_t resume_lsn_{};
  bus::position handed_out_{};  ///< the last event that `committed` gave away: what comes again is dropped
  std::shared_ptr<bus::batch> batch_ = std::make_shared<bus::batch>();
  std::size_t first_{};  ///< the open transaction's first event in batch_
  std::size_t bytes_before_{};  ///< batch_->bytes() when the transaction began
  bool open_{};
  bool dropping_{};  ///< the open transaction is too large
  std::uint32_t ordinal_{};  ///< of the next change in the open transaction
  struct record {
    std::uint64_t begins{};  ///< in the WAL; 0: of no row yet
    std::uint32_t ordinal{};  ///< of its first change
    std::size_t events{};  ///< of the open transaction, before those of its rows
  };
  record record_{};  ///< that the open transaction's last row came from
  std::uint64_t unfinished_{};  ///< the end of a transaction of which some events count as committed, and not all do; 0: none
  std::optional<postgres::pgoutput::commit> known_end_;  ///< of the open transaction, when it is a streamed one
  transaction now_{};
  arrival last_{};
  loss lost_{};
  bool republished_{};
  bool mended_{};  ///< by the open transaction: up to it, changes were left out of the stream
  std::string checked_channel_;  ///< the last channel that was found good
};

}  // namespace postbus::changes
