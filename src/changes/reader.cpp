// The reader's life, one round of `run`:
//
// 1. An ordinary session claims the epoch: as long as system identifier, timeline and database are the same, LSNs can be
//    compared and the epoch stays. Where positions have lost their meaning all the same (a slot was lost, the WAL went
//    backwards) it draws a new one.
// 2. A replication session takes a slot (slot_keeper): the permanent one where the server bounds what a slot may keep, or a
//    temporary copy of it while another gateway reads it; else a temporary one, which is made anew in every round.
// 3. What is missing since the last round is told to every listener: nothing where the slot holds it, a gap where a
//    slot was made anew, a reset in a new epoch. The first round begins the hub instead; where it goes on with a slot,
//    what the slot still holds is read into the hub's history before listeners are let in (catching_up), so that they
//    resume as if nobody had been away.
// 4. Turns (reader_turns.cpp): take every frame that is there, publish at a bound and when the socket is dry, tell the
//    server how far we are, wait. There is no wait and no round trip per message. Large transactions come while they run
//    and are kept aside (streamed_transactions) until they commit. One that posts and rolls a part back is read again,
//    whole, at its commit.
// 5. When anything fails: drop the open transactions, publish what was committed, wait a little, start over. When the
//    permanent slot that another gateway read is free (attendant): the same without a wait.
//
// What is acknowledged of a permanent slot lies behind what is applied (resume_window): the server keeps that much WAL for
// listeners that resume after a restart. A round within one process goes on where the last one ended. Nor does it go beyond
// what is written down of streams (reader_options::recorded), whatever the window says.
//
// Back-pressure: when the hub says it has no room we stop reading and the server waits for us; its WAL grows meanwhile,
// bounded by max_slot_wal_keep_size. We go on answering it, so that it does not take us for dead.
//
// Not guaranteed: anything across a restart of this process with a temporary slot; a transaction larger than the bounds (a
// gap with the reason transaction_too_large); visibility: an event may come before its row can be read.
#include "changes/reader.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using postgres::parameter;

constexpr auto statement_deadline = 10s;
/** A publication that was missing when the WAL was decoded, as the server says it. */
constexpr std::string_view undefined_object = "42704";

}  // namespace

std::string_view to_text(reader_state s) {
  switch (s) {
    case reader_state::connecting: return "connecting";
    case reader_state::waiting_for_slot: return "waiting for a replication slot";
    case reader_state::catching_up: return "reading what was committed before the start";
    case reader_state::streaming: return "streaming";
    case reader_state::stopped: return "stopped";
  }
  return "";
}

reader::reader(asio::any_io_executor executor, reader_options options, bus::hub& h, row_handler* rows)
    : options_{std::move(options)},
      hub_{h},
      rows_{rows},
      assembler_{options_.limits, rows},
      streamed_{options_.spill},
      attendant_{executor,
                 {.conninfo = options_.conninfo_direct,
                  .flush = options_.flush,
                  .health_every = options_.look_after,
                  .poke = options_.poke,
                  .visibility = &visibility_,
                  .on_health = [this](const slot_health& health) { measured(health); },
                  .on_mended = [this](std::string left) { mended(std::move(left)); }}},
      slots_{executor, options_.slot, [this](std::string what) { note(reader_state::waiting_for_slot, std::move(what)); }},
      window_{options_.window},
      retry_{std::random_device{}(), options_.retry},
      timer_{executor},
      advanced_{executor, steady::time_point::max()} {}

reader::~reader() = default;

reader_status reader::status() const {
  const std::scoped_lock lock{guard_};
  return status_;
}

void reader::note(reader_state s, std::string problem) {
  const std::scoped_lock lock{guard_};
  const bool was_reading = status_.reading();
  status_.state = s;
  status_.problem = std::move(problem);
  metrics::set(metrics::gauge::streaming, s == reader_state::streaming ? 1 : 0);
  if (!status_.reading())
    metrics::set(metrics::gauge::lag_micros, metrics::unknown);
  else if (!was_reading)
    metrics::set(metrics::gauge::lag_micros, 0);
}

void reader::stop() {
  stopped_ = true;
  timer_.cancel();
  advanced_.cancel();
  slots_.stop();
  if (stream_) stream_->close();
  if (ordinary_) ordinary_->close();  // it may wait for somebody's lock
  attendant_.stop();
}

asio::awaitable<void> reader::run() {
  while (!stopped_) {
    const auto ended = co_await stream_once();
    attendant_.slot({});
    stream_.reset();
    if (stopped_ || ended) continue;
    const auto& why = ended.error();
    metrics::add(metrics::counter::reconnects);
    note(reader_state::connecting, why.text);
    const auto wait = retry_.next();
    const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(wait).count();
    const bool often = retry_.failures() > 5;  // an outage is told at its start, not twelve times a minute
    log::write(often ? log::level::debug : log::level::warning, "changes",
               fmt::format("not reading the WAL: {}; next attempt in {} ms", why, millis));
    timer_.expires_after(wait);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
    const std::scoped_lock lock{guard_};
    ++status_.reconnects;
  }
  note(reader_state::stopped);
}

asio::awaitable<result<>> reader::stream_once() {
  note(reader_state::connecting, status().problem);
  postgres::stream_options options;
  options.conninfo = options_.conninfo_direct;
  options.application_name = "postbus reader";
  options.slot_deadline = options_.slot_deadline;
  options.pulse = options_.pulse;
  options.decoding_kib = options_.decoding_kib;
  options.in_blocks = doubtful_ == 0;
  auto opened = co_await postgres::replication_stream::open(std::move(options));
  if (!opened) co_return opened.error();
  stream_ = std::make_unique<postgres::replication_stream>(std::move(*opened));
  if (stopped_) co_return result<>{};
  if (auto ordinary = co_await open_ordinary(); !ordinary || stopped_) co_return ordinary;
  auto prepared = co_await prepare(*ordinary_);
  ordinary_.reset();
  if (!prepared) co_return prepared;
  {
    const std::scoped_lock lock{guard_};
    status_.identity = stream_->identity();  // who writes beside us may do so from now on, in this epoch
  }
  assembler_.start(epoch_, stream_->start_lsn(), some_xid_, stream_->server_version());
  if (rows_ && rows_->wants_to_resolve()) {
    auto resolved = co_await rows_->resolve();
    if (!resolved) co_return resolved;
  }
  auto started = co_await stream_->start();
  if (!started) co_return started;
  announce_start();
  retry_.succeeded();
  attendant_.slot(stream_->slot(), slot_.held, doubtful_);
  {
    const std::scoped_lock lock{guard_};
    status_.slot = stream_->slot();
    status_.permanent = slot_.permanent;
    status_.server_version = stream_->server_version();
    status_.applied = assembler_.applied();
    status_.heard = steady::now();
  }
  log::info("changes", "reading the WAL of {} from {} by the {} slot {}", stream_->identity().database, bus::to_text(assembler_.applied()),
            slot_.permanent ? "permanent" : "temporary", stream_->slot());
  note(catch_up_to_ != 0 ? reader_state::catching_up : reader_state::streaming);
  caught_up_ = false;
  const auto whole = doubtful_;
  auto ended = co_await follow();
  if (whole == doubtful_) doubtful_ = 0;  // if it is still to come, it is found doubtful again
  doubt_ended_before_ = 0;
  doubt_ended_ = false;
  assembler_.stop();
  streamed_.clear();
  if (auto rest = assembler_.committed()) {
    note_streamed(*rest);
    if (rows_) rows_->before_publish(*rest);
    hub_.publish(std::move(rest), assembler_.midway() ? bus::part::piece : bus::part::whole);
  }
  last_applied_ = assembler_.applied();
  hub_.advance(last_applied_);
  resume_lsn_ = assembler_.resume_lsn();
  if (!ended && slot_.permanent && postgres::sqlstate(ended.error()) == undefined_object) slots_.poisoned();
  co_return ended;
}

asio::awaitable<result<>> reader::open_ordinary() {
  postgres::connect_options options;
  options.conninfo = options_.conninfo;
  auto opened = co_await postgres::connection::open(std::move(options));
  if (!opened) co_return opened.error();
  ordinary_ = std::make_unique<postgres::connection>(std::move(*opened));
  co_return result<>{};
}

/** Epoch and slot of this round. */
asio::awaitable<result<>> reader::prepare(postgres::connection& ordinary) {
  if (auto claimed = co_await claim_epoch(ordinary); !claimed) co_return claimed;
  const bool same = begun_ && epoch_ == last_applied_.epoch;
  auto taken = co_await slots_.take(ordinary, *stream_, epoch_, same ? resume_lsn_ : 0);
  if (!taken) co_return taken.error();
  slot_ = std::move(*taken);
  // It may be another one by now: drawn for a slot that was lost, by us or by the gateway whose slot this one is a copy of. A slot
  // that was there before is not read for one that was drawn while we took it: that begins further on.
  if (auto claimed = co_await claim_epoch(ordinary); !claimed) co_return claimed;
  if (slot_.goes_on && slot_.epoch != epoch_) co_return error{errc::unavailable, "positions began anew while a slot was taken"};
  co_return result<>{};
}

asio::awaitable<result<>> reader::claim_epoch(postgres::connection& ordinary) {
  const auto& identity = stream_->identity();
  const auto timeline = std::to_string(identity.timeline);
  const parameter parameters[] = {identity.system_identifier, timeline};
  auto claimed = co_await ordinary.query(embedded_sql::find("statements/changes/stream_start.sql"), parameters, statement_deadline);
  if (!claimed) co_return claimed.error();
  epoch_ = number<std::uint32_t>(claimed->text(0, 0));
  some_xid_ = number<std::uint64_t>(claimed->text(0, 1));
  co_return result<>{};
}

void reader::announce_start() {
  const auto at = assembler_.applied();
  const bool continues = begun_ && last_applied_.epoch == at.epoch && slot_.goes_on;
  if (!begun_ || last_applied_.epoch != at.epoch) {
    fed_at_.assign(1, at.lsn);  // as far as anybody can know who was not there
    asked_at_ = 0;
  }
  if (!continues) window_.begin(steady::now(), stream_->start_lsn());
  if (!std::exchange(begun_, true)) {
    visibility_.restarted();
    catch_up_to_ = slot_.goes_on ? slot_.flushed_lsn : 0;
    hub_.begin(at, catch_up_to_);
  } else if (last_applied_.epoch != at.epoch) {
    visibility_.restarted();
    hub_.announce_reset(at, "epoch");
  } else if (!continues) {
    visibility_.restarted();
    metrics::add(metrics::counter::gaps_reconnect);
    hub_.announce_gap(last_applied_, at, "reconnect");
  }
  last_applied_ = std::max(last_applied_.epoch == at.epoch ? last_applied_ : at, at);
  look_whether_caught_up();
  attendant_.look();
  advanced_.cancel();
}

/** What a slot held from before our start has been read: listeners are let in. */
void reader::look_whether_caught_up() {
  if (catch_up_to_ == 0 || last_applied_.lsn < catch_up_to_) return;
  catch_up_to_ = 0;
  hub_.serve();
  note(reader_state::streaming);
}

void reader::measured(const slot_health& health) {
  // What is true of now was so since the look before this one began, at the latest.
  if (health.feeds_fault.empty()) {
    while (fed_at_.size() > 1 && fed_at_[1] <= assembler_.resume_lsn()) fed_at_.pop_front();
    if (asked_at_ != 0) fed_at_.push_back(asked_at_);
    const std::scoped_lock lock{guard_};
    status_.feeds_problem.clear();
  } else if (status().feeds_problem.empty()) {
    log::warning("changes", "{}: the feeds are mended, and what they lack is told as a gap", health.feeds_fault);
  }
  if (std::exchange(doubt_ended_, health.ended) && health.ended && doubt_ended_before_ == 0) doubt_ended_before_ = health.at_lsn;
  asked_at_ = health.at_lsn;
  if (health.free_from && *health.free_from <= assembler_.resume_lsn()) {
    log::info("changes", "the slot {} is free: reading goes on with it", slot_.held);
    moves_over_ = true;
    if (stream_) stream_->wake();
  }
  if (health.epoch != 0 && health.epoch != epoch_) {
    log::warning("changes", "positions begin anew: another gateway, or somebody by hand, drew another epoch");
    moves_over_ = true;
    if (stream_) stream_->wake();
    return;
  }
  metrics::set(metrics::gauge::resume_window_seconds,
               slot_.permanent ? std::chrono::duration_cast<std::chrono::seconds>(window_.age(steady::now())).count() : 0);
  if (!slot_.permanent) return;
  const auto verdict = slot_guard::judge(health, options_.guard);
  if (verdict.what == slot_guard::action::none) return;
  if (verdict.what == slot_guard::action::shorten_window) {
    log::warning("changes", "{}: the resume window is given up for now", verdict.why);
    window_.release();
    return;
  }
  log::error("changes", "{}: the slot is given up and another one made; positions start anew", verdict.why);
  slots_.give_up();
  if (stream_) stream_->close();
}

/** Where the feeds were last known to lack nothing, of what lies before that place. */
bus::position reader::fed_until(const bus::position& before) const {
  const auto after = std::ranges::lower_bound(fed_at_, before.lsn);
  if (after == fed_at_.begin()) return before;
  return {before.epoch, *std::prev(after), bus::position::end_of_commit};
}

/** What was mended is told where the stream brings it (act). What was not is told now: nobody knows when it will be. */
void reader::mended(std::string left) {
  {
    const std::scoped_lock lock{guard_};
    if (status_.feeds_problem == left) return;
    status_.feeds_problem = left;
  }
  if (left.empty()) return;
  log::error("changes", "{}", left);
  metrics::add(metrics::counter::gaps_publication);
  hub_.announce_gap(fed_until(last_applied_), last_applied_, "publication");
}

asio::awaitable<result<>> reader::until_applied(std::uint32_t epoch, std::uint64_t lsn, steady::time_point deadline) {
  for (;;) {
    // Not the hub's head: that may stand within a transaction that is published in pieces.
    if (stopped_ || (begun_ && last_applied_.epoch != epoch))
      co_return error{errc::unavailable, "the stream of changes broke off: start over"};
    if (begun_ && last_applied_.lsn >= lsn) co_return result<>{};
    if (steady::now() >= deadline)
      co_return error{errc::timed_out, "the stream of changes is too far behind for a snapshot; come back in a while"};
    asio::steady_timer limit{advanced_.get_executor(), deadline};
    limit.async_wait([this](boost::system::error_code ended) {
      if (!ended) advanced_.cancel();
    });
    co_await advanced_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

}  // namespace postbus::changes
