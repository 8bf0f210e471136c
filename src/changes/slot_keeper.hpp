#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <functional>
#include <string>

#include "changes/slot_plan.hpp"
#include "postgres/replication_stream.hpp"

namespace postbus::changes {

/**
 * Gives the reader a slot at the begin of each of its rounds: carries out plan_slot. Remembers between rounds whose session
 * read the permanent slot, and why it cannot be gone on with. The reader's executor only.
 */
class slot_keeper {
public:
  struct settings {
    slot_choice wanted{slot_choice::automatic};
    steady::duration patience{std::chrono::seconds{1}};  ///< for a session that was broken off to leave the slot; then it is copied
  };
  /** `waiting` is told whom or what a wait is for; safe to show. */
  slot_keeper(boost::asio::any_io_executor executor, settings given, std::function<void(std::string)> waiting);

  struct choice {
    bool permanent{};
    bool goes_on{};               ///< nothing is missing: what it still holds, or all since `resume_lsn`, comes first
    std::string held{};           ///< the permanent slot, which another session reads
    std::uint64_t flushed_lsn{};  ///< the server's WAL was flushed up to here
    std::uint32_t publication{};  ///< the one under which it brings everything
    std::uint32_t epoch{};        ///< whose positions begin where it is read from, if `goes_on`
  };
  /**
   * Readies a slot on `stream`. One that holds it is read from `resume_lsn` on; 0: from where it was acknowledged; never from before
   * the epoch's positions begin. Where what there was is gone it draws a new epoch in place of `epoch`, before a slot is there that another gateway could copy.
   * errc::timed_out: transactions that write keep a new slot waiting; errc::unsupported: see plan_slot's `refuse`.
   */
  boost::asio::awaitable<result<choice>> take(postgres::connection& ordinary, postgres::replication_stream& stream, std::uint32_t epoch,
                                              std::uint64_t resume_lsn);

  /** The permanent slot's history cannot be decoded any more. */
  void poisoned() { past_.poisoned = true; }
  /** The permanent slot costs the server too much: the next round makes another. */
  void give_up() { past_.given_up = true; }
  void stop();

private:
  boost::asio::awaitable<result<slot_facts>> ask(postgres::connection& ordinary, choice& chosen);
  boost::asio::awaitable<result<>> make(postgres::connection& ordinary, postgres::replication_stream& stream, std::string name,
                                        postgres::replication_stream::lifetime l);
  /** That the slot was made. */
  boost::asio::awaitable<result<>> record(postgres::connection& ordinary, const slot_facts& facts);
  boost::asio::awaitable<std::string> running_writers(postgres::connection& ordinary);
  /** How many rows it gave. */
  boost::asio::awaitable<result<std::size_t>> carry_out(postgres::connection& ordinary, std::string_view statement, std::string parameter);

  settings settings_;
  std::function<void(std::string)> waiting_;
  boost::asio::steady_timer timer_;
  slot_past past_;
  int reader_pid_{};  ///< the server's process of our last session on the permanent slot
  std::string last_why_;
  bool stopped_{};
};

}  // namespace postbus::changes
