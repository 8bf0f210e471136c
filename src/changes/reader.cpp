// The reader's life, one round of `run`:
//
// 1. An ordinary session claims the epoch: as long as system identifier, timeline and database are the same, LSNs can be
//    compared and the epoch stays. An LSN that went backwards all the same (a restored file system) draws a new one.
// 2. A replication session makes a temporary slot. Its creation waits for every transaction that is writing at that
//    moment; who they are is logged, because one forgotten session can hold this up for hours.
// 3. What committed between the last round's end and the slot's start is lost to us: every listener is told, by a gap
//    within an epoch, by a reset otherwise. The first round begins the hub instead.
// 4. Turns: take every frame that is there, publish at a bound and when the socket is dry, tell the server how far we
//    are, wait. There is no wait and no round trip per message.
// 5. When anything fails: drop the open transaction, publish what was committed, wait a little, start over.
//
// Back-pressure: when the hub says it has no room we stop reading and the server waits for us; its WAL grows meanwhile,
// bounded by max_slot_wal_keep_size. We go on answering it, so that it does not take us for dead.
//
// Not guaranteed: anything across a restart of this process (the slot is temporary); a transaction larger than the
// bound (a gap with the reason transaction_too_large); visibility: an event may come before its row can be read.
#include "changes/reader.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <unistd.h>

#include <charconv>
#include <random>

#include "base/log.hpp"
#include "base/metrics.hpp"
#include "embedded_sql.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
namespace pgoutput = postgres::pgoutput;
using postgres::parameter;

constexpr auto statement_deadline = 10s;
constexpr auto room_check = 5ms;

std::string slot_name() {
  std::random_device random;
  return fmt::format("postbus_{}_{:08x}", ::getpid(), random());
}

template <class Int>
Int number(std::string_view text) {
  Int value{};
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

std::string_view to_text(reader_state s) {
  switch (s) {
    case reader_state::connecting: return "connecting";
    case reader_state::waiting_for_writers: return "waiting for running transactions";
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
      attendant_{executor, {.conninfo = options_.conninfo_direct, .flush = options_.flush, .poke = options_.poke, .visibility = &visibility_}},
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
  status_.state = s;
  status_.problem = std::move(problem);
  metrics::set(metrics::gauge::streaming, s == reader_state::streaming ? 1 : 0);
}

void reader::stop() {
  stopped_ = true;
  timer_.cancel();
  advanced_.cancel();
  if (stream_) stream_->close();
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
    metrics::set(metrics::gauge::lag_micros, 0);
    note(reader_state::connecting, why.text);
    const auto wait = retry_.next();
    const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(wait).count();
    const bool often = retry_.failures() > 5;  // an outage is told at its start, not twelve times a minute
    log::write(often ? log::level::debug : log::level::warning, "changes",
               fmt::format("not reading the WAL: {} ({}); next attempt in {} ms", why.text, why.detail, millis));
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
  options.slot = slot_name();
  options.slot_deadline = options_.slot_deadline;
  options.pulse = options_.pulse;
  auto opened = co_await postgres::replication_stream::open(std::move(options));
  if (!opened) co_return opened.error();
  stream_ = std::make_unique<postgres::replication_stream>(std::move(*opened));
  if (stopped_) co_return result<>{};
  {
    postgres::connect_options ordinary_options;
    ordinary_options.conninfo = options_.conninfo;
    auto ordinary = co_await postgres::connection::open(std::move(ordinary_options));
    if (!ordinary) co_return ordinary.error();
    auto slot = co_await make_slot(*ordinary);
    if (!slot) co_return slot;
    auto claimed = co_await claim(*ordinary);
    if (!claimed) co_return claimed;
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
  attendant_.slot(stream_->slot());
  {
    const std::scoped_lock lock{guard_};
    status_.slot = stream_->slot();
    status_.identity = stream_->identity();
    status_.server_version = stream_->server_version();
    status_.applied = assembler_.applied();
  }
  note(reader_state::streaming);
  log::info("changes", "reading the WAL of {} from {}", stream_->identity().database, bus::to_text(assembler_.applied()));
  caught_up_ = false;
  auto ended = co_await follow();
  assembler_.stop();
  if (auto rest = assembler_.committed()) {
    note_streamed(*rest);
    if (rows_) rows_->before_publish(*rest);
    hub_.publish(std::move(rest));
  }
  last_applied_ = assembler_.applied();
  co_return ended;
}

asio::awaitable<std::string> reader::running_writers(postgres::connection& ordinary) {
  auto found = co_await ordinary.query(embedded_sql::find("statements/changes/running_writers.sql"), {}, statement_deadline);
  std::string text;
  if (found)
    for (std::size_t row = 0; row < found->size(); ++row)
      text += fmt::format("{}{} for {} s", row == 0 ? "" : "; ", found->text(row, 0), found->text(row, 1));
  co_return text;
}

asio::awaitable<result<>> reader::make_slot(postgres::connection& ordinary) {
  const auto writers = co_await running_writers(ordinary);
  if (!writers.empty()) {
    note(reader_state::waiting_for_writers, "a new replication slot waits for the end of running transactions: " + writers);
    log::warning("changes", "the replication slot waits for the end of running transactions that write: {}", writers);
  }
  auto made = co_await stream_->create_slot();
  if (made || made.error().code != errc::timed_out) co_return made;
  const auto still = co_await running_writers(ordinary);
  co_return error{errc::timed_out,
                  still.empty() ? "the replication slot was not ready in time"
                                : "the replication slot waits for running transactions: end them, or wait for them: " + still};
}

asio::awaitable<result<>> reader::claim(postgres::connection& ordinary) {
  const auto& identity = stream_->identity();
  const auto timeline = std::to_string(identity.timeline);
  const parameter parameters[] = {identity.system_identifier, timeline};
  auto claimed = co_await ordinary.query(embedded_sql::find("statements/changes/stream_start.sql"), parameters, statement_deadline);
  if (!claimed) co_return claimed.error();
  auto epoch = number<std::uint32_t>(claimed->text(0, 0));
  some_xid_ = number<std::uint64_t>(claimed->text(0, 1));
  if (begun_ && epoch == epoch_ && stream_->start_lsn() < last_applied_.lsn) {
    log::warning("changes", "the database's WAL went backwards: it was restored; positions start anew");
    auto drawn = co_await ordinary.query(embedded_sql::find("statements/changes/new_epoch.sql"), {}, statement_deadline);
    if (!drawn) co_return drawn.error();
    epoch = number<std::uint32_t>(drawn->text(0, 0));
  }
  epoch_ = epoch;
  co_return result<>{};
}

void reader::announce_start() {
  const auto at = assembler_.applied();
  const auto head = hub_.head();
  visibility_.restarted();
  attendant_.look();
  advanced_.cancel();
  if (!std::exchange(begun_, true)) {
    hub_.begin(at);
  } else if (head.epoch == at.epoch) {
    metrics::add(metrics::counter::gaps_reconnect);
    hub_.announce_gap(last_applied_, at, "reconnect");
  } else {
    hub_.announce_reset(at, "epoch");
  }
  last_applied_ = at;
}

asio::awaitable<result<>> reader::follow() {
  while (!stopped_) {
    auto drained = co_await drain();
    if (!drained) co_return drained;
    auto published = co_await publish();
    if (!published) co_return published;
    auto waited = co_await stream_->wait(24h);
    if (!waited) co_return waited;
  }
  co_return result<>{};
}

/** Takes every frame that is here. */
asio::awaitable<result<>> reader::drain() {
  std::uint64_t bytes = 0;
  for (;;) {
    auto next = stream_->next();
    if (!next) co_return next.error();
    if (!*next) break;
    const auto& frame = **next;
    const auto* const data = std::get_if<pgoutput::xlog_data>(&frame);
    if (data) bytes += data->payload.size();
    const bool was_open = assembler_.in_transaction();
    auto taken = assembler_.take(frame);
    if (!taken) co_return taken.error();
    if (!was_open && assembler_.in_transaction()) {
      const auto& last = assembler_.last();
      attendant_.arrived(std::chrono::microseconds{last.sent - last.committed}, caught_up_);
      caught_up_ = false;
    } else if (!data && !was_open) {
      caught_up_ = true;  // a keep-alive: the server has sent all there is
    }
    switch (*taken) {
      case assembler::want::nothing: break;
      case assembler::want::resolve: {
        auto resolved = co_await rows_->resolve();
        if (!resolved) co_return resolved;
        break;
      }
      case assembler::want::publish: {
        auto published = co_await publish();
        if (!published) co_return published;
        break;
      }
      case assembler::want::announce: {
        auto published = co_await publish();
        if (!published) co_return published;
        const auto& lost = assembler_.lost();
        metrics::add(metrics::counter::gaps_too_large);
        log::error("changes", "transaction {} is larger than {} bytes of events and was not delivered: listeners are told of a gap",
                   lost.xid, options_.limits.transaction_bytes);
        hub_.announce_gap(lost.from, lost.to, "transaction_too_large");
        visibility_.streamed(lost.xid, lost.to);  // a snapshot that does not see it must be joined before that gap
        break;
      }
    }
  }
  metrics::add(metrics::counter::wal_bytes, bytes);
  co_return result<>{};
}

void reader::note_streamed(const bus::batch& events) {
  for (const auto* const e : events.events())
    if (e->kind != bus::kind::message) visibility_.streamed(e->xid, e->at);  // messages are in no snapshot
  attendant_.look();
}

asio::awaitable<result<>> reader::until_applied(std::uint32_t epoch, std::uint64_t lsn, steady::time_point deadline) {
  for (;;) {
    const auto head = hub_.head();
    if (stopped_ || (begun_ && head.epoch != epoch)) co_return error{errc::unavailable, "the stream of changes broke off: start over"};
    if (begun_ && head.lsn >= lsn) co_return result<>{};
    if (steady::now() >= deadline) co_return error{errc::timed_out, "the stream of changes is too far behind for a snapshot; come back in a while"};
    asio::steady_timer limit{advanced_.get_executor(), deadline};
    limit.async_wait([this](boost::system::error_code ended) { if (!ended) advanced_.cancel(); });
    co_await advanced_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

/** Hands what is committed to the hub and waits until the hub has room. */
asio::awaitable<result<>> reader::publish() {
  const auto applied = assembler_.applied();
  bool room = true;
  if (auto ready = assembler_.committed()) {
    metrics::add(metrics::counter::events_wal, ready->events().size());
    note_streamed(*ready);
    if (rows_) rows_->before_publish(*ready);
    room = hub_.publish(std::move(ready));
  }
  if (applied > last_applied_) {
    hub_.advance(applied);
    advanced_.cancel();
    stream_->applied(applied.lsn);
    last_applied_ = applied;
    const auto& last = assembler_.last();
    metrics::set(metrics::gauge::lag_micros, caught_up_ ? 0 : std::max<std::int64_t>(0, last.sent - last.committed));
    const std::scoped_lock lock{guard_};
    status_.applied = applied;
    status_.last_commit = last.committed;
  }
  while (!room && !stopped_) {
    timer_.expires_after(room_check);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
    auto alive = co_await stream_->keep_alive();
    if (!alive) co_return alive;
    room = hub_.has_room();
  }
  co_return result<>{};
}

}  // namespace postbus::changes
