#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "bus/position.hpp"

namespace postbus::changes {

/** What pg_current_snapshot() tells on a primary (a standby's names no running transactions and is of no use here). */
struct snapshot {
  std::uint64_t xmin{}, xmax{};
  std::vector<std::uint64_t> running;  ///< between the two, ascending

  /** Whether what this committed transaction wrote can be seen. Only for top-level transaction ids. */
  bool sees(std::uint64_t xid) const;
  /** "10:20:10,14"; errc::protocol for anything else. */
  static result<snapshot> parse(std::string_view text);
};

/**
 * Knows which transactions the stream has brought that a snapshot taken about now may not see yet, and so where a reader
 * of rows must join the stream. I/O-free; the reader's thread. How and why: see the source.
 */
class visibility {
public:
  struct limits {
    std::size_t transactions = 1u << 20;  ///< kept at most, 24 bytes each; beyond it new fills are refused for a while
    steady::duration ask_every = std::chrono::seconds{1};
  };
  /** A transaction that was running when the stream began, and who it is. */
  struct writer {
    std::uint64_t xid{};
    std::string who;  ///< safe to show
  };
  class fill;

  explicit visibility(limits given) : limits_{given} {}
  visibility() : visibility{limits{}} {}
  visibility(const visibility&) = delete;
  visibility& operator=(const visibility&) = delete;

  // From the stream.

  /** The stream begins, or goes on behind something that it did not bring. */
  void restarted();
  /** A transaction has been read; `at` is the position of its first event. In the stream's order. */
  void streamed(std::uint64_t xid, const bus::position& at);

  // What must be asked of the database now and then, by one caller at a time.

  /** When to ask next; time_point::max() while there is nothing to find out. */
  steady::time_point due() const;
  /** True when the answer must name the running writers too: this is the first one since the start. */
  bool wants_writers() const { return !started_; }
  /** A question is about to be sent; the value goes into the answer. */
  std::uint64_t ask(steady::time_point now);
  /** `writers`: all transactions that held an id when the question was answered; null where they were not asked for. */
  void answer(std::uint64_t question, snapshot seen, const std::vector<writer>* writers);

  std::size_t transactions() const { return recent_.size(); }

private:
  struct entry {
    std::uint64_t xid;
    bus::position at;
  };
  void lose_track(bool joined_fills_too);
  void prune();

  limits limits_;
  std::vector<entry> recent_;     // streamed and not known to be visible, in the stream's order
  std::vector<writer> suspects_;  // running at the start: may have committed before it
  bool started_{};                // the writers at the start are known
  std::optional<snapshot> newest_;
  std::uint64_t generation_{};
  steady::time_point asked_{};
  std::vector<fill*> fills_;
};

/**
 * One reading of rows that is to be joined with the stream: made right before the statement that takes its snapshot is
 * sent, kept until the join is known. `of` must outlive it.
 */
class visibility::fill {
public:
  explicit fill(visibility& of);
  fill(const fill&) = delete;
  fill& operator=(const fill&) = delete;
  ~fill();

  /**
   * The rows' snapshot has arrived. errc::unavailable: it cannot be joined, because something that it may not see was
   * never read here; the text names who is waited for. Take another in a moment.
   */
  result<> arrived(snapshot taken);
  const snapshot& taken() const { return *taken_; }
  /**
   * Once the stream has passed the WAL position that was read together with the snapshot: the position after which every
   * event whose transaction the snapshot does not see belongs behind the rows. `head`: up to where the stream has been
   * published. errc::unavailable: the stream broke meanwhile.
   */
  result<bus::position> join(const bus::position& head) const;

private:
  friend class visibility;
  visibility& of_;
  std::optional<snapshot> taken_;
  std::optional<bus::position> first_;  // of what was streamed and is not seen
  bool lost_;  ///< what it may not see has not been kept
};

}  // namespace postbus::changes
