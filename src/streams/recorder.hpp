#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bus/hub.hpp"
#include "postgres/connection.hpp"

namespace postbus::streams {

/**
 * Writes down where the messages of streams stand in commit order (postbus.stream_positions), beside their delivery and
 * after it. Of several gateways on one database the holder of a session advisory lock writes; the others keep what they
 * have read until the holder has written it, so that each can go on where another stopped. A holder that does not read any more
 * gives the lock up. The holder also has old segments dropped.
 *
 * Thread: its executor's, the reader's, except where said. `h` must outlive it.
 */
class recorder {
public:
  struct settings {
    std::string conninfo;  ///< a direct session: the lock is the session's
    steady::duration gather{std::chrono::milliseconds{20}};  ///< what is read within it is written at once
    steady::duration follow{std::chrono::seconds{1}};        ///< between two looks at another holder's work
    steady::duration maintain{std::chrono::seconds{10}};     ///< between two calls of postbus.maintain_streams()
    steady::duration note{std::chrono::minutes{1}};          ///< a holder without messages writes down how far it is this often,
    std::uint64_t note_bytes{64 << 10};                      ///< where the WAL has grown by this much: its own notes are WAL too
    std::function<bool()> reading{};  ///< whether the stream comes in; without one it always does
    std::function<std::string()> instance{};  ///< whose WAL is read (system_identity); in no other are places written down
    steady::duration yield{std::chrono::seconds{15}};  ///< after so long without the stream another gateway is to lead
    std::size_t most_held{256u << 20};  ///< bytes of what is not written down; beyond it no more is read (has_room)
  };
  struct message {
    std::uint64_t id{};
    std::uint32_t index{}, bytes{};
    std::int32_t segment{};
    std::size_t stream{};  ///< equal for equal channels
  };
  /** One transaction's messages, in order. */
  struct transaction {
    std::uint64_t xid{};
    std::uint32_t epoch{};
    std::uint64_t lsn{};
    unix_micros time{};
    std::vector<message> messages;
    bool whole{};  ///< no more of it will come
  };

  recorder(boost::asio::any_io_executor executor, settings given, const bus::hub& h);

  /** Runs until `stop`. Start `maintain` too. */
  boost::asio::awaitable<void> run();
  boost::asio::awaitable<void> maintain();
  void stop();

  // For message_rows, in stream order.
  void begins_at(const bus::position& from);
  /** A transaction, or a further piece of the one that was added last and is not whole. */
  void add(transaction piece);
  /** The transaction that was added last is whole. */
  void complete();
  /** Its pieces break off: it comes again from its beginning, or what comes begins behind it. */
  void abandon();
  /** What was committed there was too large to be read: its messages are to be found in the tables alone. */
  void missed(const bus::position& at);
  /** Another gateway wants to know how far we are. */
  void tell_progress();

  /** Every message at or before it can be read from the tables, and has been published here; {} while that is not known. */
  bus::position recorded() const;
  /**
   * As a plain LSN: a transaction that ends after it may have to be read again to be written down; see reader_options::recorded.
   * UINT64_MAX while that bounds nothing.
   */
  std::uint64_t recorded_lsn() const;
  /** False: what waits to be written down is as much as may be held. True in the midst of a transaction and wherever writing itself waits for more to be read. */
  bool has_room() const { return held_ <= settings_.most_held || reading_on_ || queue_.empty() || !queue_.back().whole; }
  bool idle() const { return queue_.empty(); }
  bool leading() const { return leading_; }
  /** The streams and their sizes as a JSON array, some seconds old; any thread. */
  std::shared_ptr<const std::string> summary() const { return summary_.load(); }
  /** How far the tables were when this gateway saw them last, in the epoch of recorded(). Where they are not as far any more a crash of the server has undone it. */
  std::uint64_t written_lsn() const { return mark_.lsn; }
  /** The tables are not as far as written_lsn(): they are looked at again. */
  void look();
  /** Returns when recorded() has moved, or after `longest`. */
  boost::asio::awaitable<void> progress(steady::duration longest);

private:
  static constexpr auto statement_deadline = std::chrono::seconds{10};
  struct mark {
    std::uint32_t epoch{};
    std::uint64_t lsn{};
    bool settled{};
  };
  boost::asio::awaitable<result<>> serve(postgres::connection& session);
  boost::asio::awaitable<result<>> be_where_it_is_read(postgres::connection& session);
  boost::asio::awaitable<result<>> read_mark(postgres::connection& session);
  boost::asio::awaitable<result<>> settle(postgres::connection& session);
  boost::asio::awaitable<result<>> renumber(postgres::connection& session, std::uint32_t to_epoch);
  boost::asio::awaitable<result<>> see_all_before_start(postgres::connection& session);
  boost::asio::awaitable<result<>> adopt(postgres::connection& session, bus::position start);
  boost::asio::awaitable<result<>> write(postgres::connection& session, std::uint64_t up_to);
  boost::asio::awaitable<void> sleep(steady::duration longest);
  void forget_recorded();
  void forget_durable(const postgres::rows& answer, std::size_t column);
  void write_again_what_was_lost();
  bool reads();
  void measure_lag();
  void hold(const transaction& one);
  void let_go(const transaction& one);
  std::uint64_t published() const;
  bool worth_a_note() const { return published() >= mark_.lsn + settings_.note_bytes; }
  bool needs_settling() const { return epoch_ != 0 && !settled_; }

  settings settings_;
  const bus::hub& hub_;
  boost::asio::steady_timer timer_, progress_, maintain_timer_;
  std::unique_ptr<postgres::connection> session_, maintaining_;  ///< while run() and maintain() have theirs
  std::uint32_t epoch_{};
  bus::position start_{};  ///< all after it has come, or will
  std::uint64_t last_lsn_{};  ///< of the last transaction taken; what comes again is passed over
  mark mark_{};
  std::deque<transaction> queue_;
  std::deque<transaction> written_;  ///< before those in queue_: written down, but a crash of the server may still undo it
  std::uint64_t flushing_{}, flushing_wal_{};  ///< those of written_ up to the first are durable when the WAL is flushed up to the second
  std::size_t held_{};  ///< bytes of queue_ and written_
  std::size_t begun_{};  ///< how often start_ was set: a settling of an older one does not count
  std::atomic<std::shared_ptr<const std::string>> summary_{std::make_shared<const std::string>("[]")};
  bool leading_{}, settled_{}, asked_{}, looks_{}, stopped_{};
  bool reading_on_{};  ///< what is to be written down is known only when the stream has come further
  steady::time_point read_at_{steady::now()};  ///< when the stream was last seen to come in
  bool told_full_{};
};

}  // namespace postbus::streams
