// A round's turns: see point 4 of reader.cpp.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "changes/reader.hpp"
#include "embedded_sql.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
namespace pgoutput = postgres::pgoutput;

constexpr auto room_check = 5ms;
constexpr auto statement_deadline = 10s;

}  // namespace

asio::awaitable<result<>> reader::follow() {
  moves_over_ = false;
  while (!stopped_ && !moves_over_) {
    auto drained = co_await drain();
    if (!drained) co_return drained;
    auto published = co_await publish();
    if (!published) co_return published;
    // What was in doubt has ended and the stream is past it: in blocks again. Earlier it would only be in doubt once more. It does not
    // come where it was rolled back, or where nothing is left of it: the server leaves empty transactions out.
    if (doubt_ended_before_ != 0 && assembler_.resume_lsn() >= doubt_ended_before_) moves_over_ = true;
    if (moves_over_) break;
    // What was applied long ago leaves the window while nothing new comes, too. It is kept for a slot to be taken over, too.
    const auto acknowledged = acknowledge();
    if (slot_.permanent) stream_->applied(assembler_.resume_lsn(), acknowledged);
    auto waited = co_await stream_->wait(24h);
    if (!waited) co_return waited;
  }
  co_return result<>{};
}

/** What the server may forget of the WAL: what neither resuming listeners nor the tables of streams need any more. */
std::uint64_t reader::acknowledge() { return window_.acknowledge(steady::now(), options_.recorded ? options_.recorded() : UINT64_MAX); }

/** Takes every frame that is here. */
asio::awaitable<result<>> reader::drain() {
  std::uint64_t bytes = 0;
  for (bool any = false;; any = true) {
    auto next = stream_->next();
    if (!next) co_return next.error();
    if (!*next) {
      const std::scoped_lock lock{guard_};
      if (any) status_.heard = steady::now();
      break;
    }
    const auto& frame = **next;
    const auto* const data = std::get_if<pgoutput::xlog_data>(&frame);
    if (data) bytes += data->payload.size();
    auto taken =
        data && (streamed_.in_block() || pgoutput::is_streamed(data->payload)) ? co_await take_streamed(*data) : co_await take(frame);
    if (!taken) co_return taken;
    if (moves_over_) break;  // this session ends: what it has not brought the next one will
  }
  metrics::add(metrics::counter::wal_bytes, bytes);
  co_return result<>{};
}

void reader::note_streamed(const bus::batch& events) {
  for (const auto* const e : events.events())
    if (e->kind != bus::kind::message) visibility_.streamed(e->xid, e->at);  // messages are in no snapshot
  attendant_.look();
}

asio::awaitable<result<>> reader::take(const pgoutput::frame& frame) {
  const bool was_open = assembler_.in_transaction();
  auto wanted = assembler_.take(frame);
  while (wanted && *wanted == assembler::want::again) {
    if (auto found = co_await rows_->resolve(); !found) co_return found;
    wanted = assembler_.take(frame);
  }
  if (!wanted) co_return wanted.error();
  if (assembler_.republished())
    if (auto same = co_await check_publication(); !same) co_return same;
  if (was_open && !assembler_.in_transaction() && assembler_.xid() == doubtful_) moves_over_ = true;  // it has come: in blocks again
  if (!was_open && assembler_.in_transaction()) {
    const auto& last = assembler_.last();
    attendant_.arrived(std::chrono::microseconds{last.sent - last.committed}, caught_up_);
    caught_up_ = false;
  } else if (!was_open && std::holds_alternative<pgoutput::keepalive>(frame)) {
    caught_up_ = true;  // the server has sent all there is
  }
  if (*wanted == assembler::want::nothing) co_return result<>{};
  co_return co_await act(wanted);
}

/** Anyone can send the message that says so. */
asio::awaitable<result<>> reader::check_publication() {
  if (auto opened = co_await open_ordinary(); !opened || stopped_) co_return opened;
  auto found = co_await ordinary_->query(embedded_sql::find("statements/changes/publication.sql"), {}, statement_deadline);
  ordinary_.reset();
  if (!found) co_return found.error();
  if (number<std::uint32_t>(found->text(0, 0)) == slot_.publication) co_return result<>{};
  co_return error{errc::unavailable,
                  "the publication postbus was dropped and made anew: what was committed meanwhile is not in the stream"};
}

asio::awaitable<result<>> reader::take_streamed(const pgoutput::xlog_data& data) {
  if (streamed_.in_block()) co_return streamed_.take(data.payload, data.wal_start);
  const auto change = pgoutput::decode(data.payload);
  if (!change) co_return change.error();
  if (const auto* start = std::get_if<pgoutput::stream_start>(&*change)) co_return streamed_.start(*start);
  if (const auto* abort = std::get_if<pgoutput::stream_abort>(&*change); abort && !streamed_.abort(*abort)) {
    // pgoutput names the subtransaction of a row, but not of a message (its pgoutput_message): what is undone cannot be told apart.
    // A temporary slot begins behind it anyway, and the gap tells of it.
    if (slot_.permanent || !slot_.held.empty()) doubtful_ = assembler_.widened(abort->xid);
    co_return error{errc::unavailable, "a large transaction posted and rolled a part back: it will be read again at its commit"};
  }
  if (const auto* commit = std::get_if<pgoutput::stream_commit>(&*change)) co_return co_await replay(*commit, data.sent);
  co_return result<>{};
}

/** A streamed transaction has committed: takes it from where it was kept, and lets the loop turn between its pieces. */
asio::awaitable<result<>> reader::replay(const pgoutput::stream_commit& committed, unix_micros sent) {
  auto kept = streamed_.take_out(committed.xid);
  if (!kept) co_return kept.error();
  caught_up_ = false;
  if (!(*kept)->lost().empty()) {
    auto told = co_await act(assembler_.lose_streamed(committed.xid, committed.at));
    if (!told) co_return told;
    // The server describes a table once a session, and those that it described in there are lost with it.
    co_return error{errc::unavailable, "a large transaction was not kept: the stream is opened anew behind it"};
  }
  auto begun = assembler_.begin_streamed(committed.xid, committed.at, sent);
  if (!begun) co_return begun;
  while (!stopped_) {
    auto message = (*kept)->next();
    if (!message) co_return message.error();
    if (!*message) break;
    const auto& [at, payload] = **message;
    if (assembler_.piece_is_full(at)) {
      if (auto done = co_await publish(); !done) co_return done;
      co_await asio::post(asio::use_awaitable);
      if (auto alive = co_await stream_->keep_alive(); !alive) co_return alive;
      if (stopped_ || (moves_over_ && !hub_.has_room())) co_return result<>{};  // its end is not here: it will be read again
    }
    auto wanted = assembler_.take_streamed(payload, at);
    while (wanted && *wanted == assembler::want::again) {
      if (auto found = co_await rows_->resolve(); !found) co_return found;
      wanted = assembler_.take_streamed(payload, at);
    }
    if (auto done = co_await act(wanted); !done) co_return done;
  }
  if (stopped_) co_return result<>{};
  co_return co_await act(assembler_.end_streamed());
}

/** Does what the assembler wants before its next frame. */
asio::awaitable<result<>> reader::act(result<assembler::want> wanted) {
  if (!wanted) co_return wanted.error();
  switch (*wanted) {
    case assembler::want::nothing: co_return result<>{};
    case assembler::want::again:
    case assembler::want::resolve: co_return co_await rows_->resolve();
    case assembler::want::publish: co_return co_await publish();
    case assembler::want::announce: break;
  }
  const auto published = co_await publish();  // where the session breaks while there is no room the next one begins behind this loss
  const auto& lost = assembler_.lost();
  visibility_.streamed(lost.xid, lost.to);  // a snapshot that does not see it must be joined before the gap
  if (lost.unpublished) {
    const auto from = fed_until(lost.from);
    metrics::add(metrics::counter::gaps_publication);
    log::warning("changes", "the database left changes out of the stream: listeners are told of a gap from {} on", bus::to_text(from));
    hub_.announce_gap(from, lost.to, "publication");
    co_return published;
  }
  metrics::add(metrics::counter::gaps_too_large);
  log::error("changes", "transaction {} is larger than what is kept of one and was not delivered: listeners are told of a gap", lost.xid);
  hub_.announce_gap(lost.from, lost.to, "transaction_too_large");
  co_return published;
}

/** Hands what is committed to the hub and waits until the hub, and who keeps what was committed, have room. */
asio::awaitable<result<>> reader::publish() {
  const auto applied = assembler_.applied();
  const auto kept = [this] { return rows_ == nullptr || rows_->has_room(); };
  bool room = kept();
  if (auto ready = assembler_.committed()) {
    metrics::add(metrics::counter::events_wal, ready->events().size());
    note_streamed(*ready);
    if (rows_) rows_->before_publish(*ready);
    room = hub_.publish(std::move(ready), assembler_.midway() ? bus::part::piece : bus::part::whole) && kept();
  }
  if (applied > last_applied_) {
    hub_.advance(applied);
    advanced_.cancel();
    window_.applied(steady::now(), assembler_.resume_lsn());
    if (!slot_.permanent) stream_->applied(assembler_.resume_lsn(), assembler_.resume_lsn());
    last_applied_ = applied;
    look_whether_caught_up();
    const auto& last = assembler_.last();
    metrics::set(metrics::gauge::lag_micros, caught_up_ ? 0 : std::max<std::int64_t>(0, last.sent - last.committed));
    const std::scoped_lock lock{guard_};
    status_.applied = applied;
    status_.last_commit = last.committed;
  }
  while (!room && !stopped_ && !moves_over_) {
    timer_.expires_after(room_check);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
    auto alive = co_await stream_->keep_alive();
    if (!alive) co_return alive;
    room = hub_.has_room() && kept();
  }
  co_return result<>{};
}

}  // namespace postbus::changes
