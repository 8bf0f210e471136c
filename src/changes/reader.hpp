#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "bus/hub.hpp"
#include "changes/assembler.hpp"
#include "changes/attendant.hpp"
#include "changes/row_handler.hpp"
#include "changes/visibility.hpp"
#include "postgres/backoff.hpp"
#include "postgres/replication_stream.hpp"

namespace postbus::changes {

struct reader_options {
  std::string conninfo;         ///< for ordinary statements; may pass a transaction pooler
  std::string conninfo_direct;  ///< for replication and the attendant; may not
  assembler::limits limits{};
  postgres::backoff::timing retry{};
  postgres::stream_pulse::timing pulse{};
  flush_policy::timing flush{};
  bool poke{true};  ///< hurry asynchronous commits along; see flush_policy
  steady::duration slot_deadline{std::chrono::seconds{60}};
};

enum class reader_state { connecting, waiting_for_writers, streaming, stopped };
std::string_view to_text(reader_state s);

struct reader_status {
  reader_state state{reader_state::connecting};
  std::string problem;  ///< why it does not stream; safe to show; empty while it does
  std::string slot;
  postgres::system_identity identity;
  int server_version{};
  bus::position applied;       ///< everything up to here has been published
  unix_micros last_commit{};   ///< commit time of the last transaction read, by the server's clock; 0: none yet
  std::uint64_t reconnects{};
  bool ready() const { return state == reader_state::streaming; }
};

/**
 * The one reader of what commits: keeps a temporary slot streaming into the hub, and heals.
 *
 * Connects, claims the epoch of positions, makes a slot, tells every listener what may be missing since the last one (a
 * gap, or a reset where positions have lost their meaning), streams; when the session breaks, starts over after a wait
 * (postgres::backoff). Reads no further while the hub has no room; nothing else stops it.
 *
 * Ownership: `h` and `rows` (may be null) must outlive it. Thread: its executor's; `status` any. `run` must have ended
 * before it is destroyed.
 */
class reader {
public:
  reader(boost::asio::any_io_executor executor, reader_options options, bus::hub& h, row_handler* rows);
  ~reader();

  /** Runs until `stop`. Start `beside` too. */
  boost::asio::awaitable<void> run();
  /** The attendant's loop, which runs beside. */
  boost::asio::awaitable<void> beside() { return attendant_.run(); }
  /** Ends both soon; on the executor's thread. */
  void stop();

  reader_status status() const;

  /** What the stream has brought and snapshots may not see yet; the executor's thread. */
  class visibility& visibility() { return visibility_; }
  /** Waits until everything up to `lsn` has been published in `epoch`; errc::timed_out, or errc::unavailable when the epoch is another or the reader stops. */
  boost::asio::awaitable<result<>> until_applied(std::uint32_t epoch, std::uint64_t lsn, steady::time_point deadline);

private:
  boost::asio::awaitable<result<>> stream_once();
  boost::asio::awaitable<result<>> claim(postgres::connection& ordinary);
  boost::asio::awaitable<result<>> make_slot(postgres::connection& ordinary);
  boost::asio::awaitable<std::string> running_writers(postgres::connection& ordinary);
  boost::asio::awaitable<result<>> drain();
  boost::asio::awaitable<result<>> follow();
  boost::asio::awaitable<result<>> publish();
  void announce_start();
  void note_streamed(const bus::batch& events);
  void note(reader_state s, std::string problem = {});

  const reader_options options_;
  bus::hub& hub_;
  row_handler* const rows_;
  assembler assembler_;
  class visibility visibility_;
  attendant attendant_;
  postgres::backoff retry_;
  boost::asio::steady_timer timer_;
  boost::asio::steady_timer advanced_;  ///< cancelled when more has been applied
  std::unique_ptr<postgres::replication_stream> stream_;
  std::uint32_t epoch_{};
  std::uint64_t some_xid_{};
  bus::position last_applied_{};  ///< what the hub was told last
  bool begun_{};       ///< the hub has been given a first position
  bool caught_up_{};   ///< the server had nothing more to send
  bool stopped_{};

  mutable std::mutex guard_;  // of status_
  reader_status status_;
};

}  // namespace postbus::changes
