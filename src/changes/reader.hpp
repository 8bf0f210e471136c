#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "bus/hub.hpp"
#include "changes/assembler.hpp"
#include "changes/attendant.hpp"
#include "changes/resume_window.hpp"
#include "changes/row_handler.hpp"
#include "changes/slot_guard.hpp"
#include "changes/slot_keeper.hpp"
#include "changes/streamed.hpp"
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
  slot_keeper::settings slot{.wanted = slot_choice::temporary};
  resume_window::bounds window{};  ///< of a permanent slot
  /** Of a permanent slot: what ends at or before this LSN is kept elsewhere too; nothing after it may be acknowledged. Empty: no bound. Reader's thread. */
  std::function<std::uint64_t()> recorded{};
  spill_limits spill{};
  std::uint32_t decoding_kib{64 * 1024};  ///< see postgres::stream_options
  slot_guard::limits guard{};
  steady::duration look_after{std::chrono::seconds{10}};  ///< between two looks at what the slot costs, and whether a permanent one is free
  steady::duration slot_deadline{std::chrono::seconds{60}};
};

enum class reader_state { connecting, waiting_for_slot, catching_up, streaming, stopped };
std::string_view to_text(reader_state s);

struct reader_status {
  reader_state state{reader_state::connecting};
  std::string problem;  ///< why it does not stream; safe to show; empty while it does
  std::string feeds_problem;  ///< what keeps a feed from being fed, and cannot be mended yet; empty: nothing
  std::string slot;
  bool permanent{};  ///< the slot outlives this process
  postgres::system_identity identity;  ///< of the server whose WAL was read last, once it is known that positions keep their meaning there
  int server_version{};
  bus::position applied;  ///< everything up to here has been published
  unix_micros last_commit{};  ///< commit time of the last transaction read, by the server's clock; 0: none yet
  std::uint64_t reconnects{};
  std::optional<steady::time_point> heard;  ///< when the stream brought something last, be it that there is nothing
  /** It reads, so how far it is behind is known. */
  bool reading() const { return state == reader_state::streaming || state == reader_state::catching_up; }
  bool ready() const { return state == reader_state::streaming; }
};

/**
 * The one reader of what commits: keeps a slot streaming into the hub, and heals.
 *
 * Connects, claims the epoch of positions, takes a slot (slot_keeper), tells every listener what may be missing since the
 * last one (nothing where the slot holds it, a gap where one was made anew, a reset where positions have
 * lost their meaning), streams; when the session breaks, starts over after a wait (postgres::backoff). Reads no further
 * while the hub or a row_handler has no room; nothing else stops it.
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
  /** Waits until every transaction up to `lsn` has been published as a whole in `epoch`; errc::timed_out, or errc::unavailable when the epoch is another or the reader stops. */
  boost::asio::awaitable<result<>> until_applied(std::uint32_t epoch, std::uint64_t lsn, steady::time_point deadline);

private:
  boost::asio::awaitable<result<>> stream_once();
  boost::asio::awaitable<result<>> open_ordinary();
  boost::asio::awaitable<result<>> prepare(postgres::connection& ordinary);
  boost::asio::awaitable<result<>> claim_epoch(postgres::connection& ordinary);
  boost::asio::awaitable<result<>> drain();
  boost::asio::awaitable<result<>> take(const postgres::pgoutput::frame& frame);
  boost::asio::awaitable<result<>> check_publication();
  boost::asio::awaitable<result<>> take_streamed(const postgres::pgoutput::xlog_data& data);
  boost::asio::awaitable<result<>> replay(const postgres::pgoutput::stream_commit& committed, unix_micros sent);
  boost::asio::awaitable<result<>> act(result<assembler::want> wanted);
  boost::asio::awaitable<result<>> follow();
  boost::asio::awaitable<result<>> publish();
  std::uint64_t acknowledge();
  void announce_start();
  void look_whether_caught_up();
  void measured(const slot_health& health);
  void mended(std::string left);
  bus::position fed_until(const bus::position& before) const;
  void note_streamed(const bus::batch& events);
  void note(reader_state s, std::string problem = {});

  const reader_options options_;
  bus::hub& hub_;
  row_handler* const rows_;
  assembler assembler_;
  streamed_transactions streamed_;
  class visibility visibility_;
  attendant attendant_;
  slot_keeper slots_;
  resume_window window_;
  postgres::backoff retry_;
  boost::asio::steady_timer timer_;
  boost::asio::steady_timer advanced_;  ///< cancelled when more has been applied
  std::unique_ptr<postgres::replication_stream> stream_;
  std::unique_ptr<postgres::connection> ordinary_;  ///< beside it, while something is asked
  slot_keeper::choice slot_;
  std::uint32_t epoch_{};
  std::uint64_t some_xid_{};
  bus::position last_applied_{};  ///< what the hub was told last
  std::uint64_t resume_lsn_{};  ///< where a permanent slot goes on in this process; 0: nowhere yet
  std::uint64_t catch_up_to_{};  ///< until here listeners wait; 0: they are served
  std::uint64_t doubtful_{};  ///< a transaction that must come whole, at its commit, by its wide id; 0: none; see take_streamed
  std::uint64_t doubt_ended_before_{};  ///< it did, before this LSN; 0: not known
  bool doubt_ended_{};  ///< and where is known with the next look: this one's LSN was read beside the state
  std::deque<std::uint64_t> fed_at_;  ///< LSNs where the feeds were found in order: the last one that is applied, and later ones
  std::uint64_t asked_at_{};  ///< where the WAL ended at the last look
  bool begun_{};  ///< the hub has been given a first position
  bool caught_up_{};  ///< the server had nothing more to send
  bool moves_over_{};  ///< this round ends for one on the permanent slot, which is free, or in another epoch
  bool stopped_{};

  mutable std::mutex guard_;  // of status_
  reader_status status_;
};

}  // namespace postbus::changes
