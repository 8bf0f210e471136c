// The life of a position: the reader decodes a commit, its messages' places come in here and its events go to the hub → a few
// milliseconds later the holder asks for a snapshot, takes the longest run from the front of the queue that this snapshot
// sees (the WAL may tell of a commit that cannot be seen yet) and writes it in one asynchronous transaction, together with
// how far it is. A crash of the server may lose that, so an entry is kept until the WAL that holds it has been flushed: the
// mark that is read when the server is back tells which are to be written again. Where the gateway died as well they are
// decoded again: the server keeps its WAL, because recorded_lsn() holds the acknowledgement back. A large transaction is
// handed out in pieces; it is written when it is whole.
//
// How it is known that the database is the one whose WAL is read, and that nothing was left out before the stream: settling.cpp.
//
// What cannot be written down (somebody locks the tables, a commit waits for its standby) is held, up to a bound in bytes.
// Beyond it no more of the WAL is read: live delivery waits as well, nothing is lost, and the slot's guard has the last word.
#include "streams/recorder.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <algorithm>
#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "changes/visibility.hpp"
#include "embedded_sql.hpp"
#include "postgres/backoff.hpp"
#include "streams/entry.hpp"

namespace postbus::streams {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using postgres::parameter;

constexpr auto maintain_deadline = 5min;
constexpr auto invisible_pause = 5ms;
constexpr auto flush_pause = 200ms;  // a walwriter's
constexpr std::size_t most_messages = 20'000;  // of one write
constexpr std::size_t most_of_a_run = 4'096;

/** Entries of one segment that follow one another. */
struct place_run {
  std::int32_t segment;
  std::uint64_t lsn;
  std::size_t count;
  std::string hex;
};

void append_element(std::string& array, std::string_view text) {
  array += array.empty() ? '{' : ',';
  array += text;
}

}  // namespace

recorder::recorder(asio::any_io_executor executor, settings given, const bus::hub& h)
    : settings_{std::move(given)}, hub_{h}, timer_{executor}, progress_{executor, steady::time_point::max()}, maintain_timer_{executor} {}

void recorder::stop() {
  stopped_ = true;
  timer_.cancel();
  progress_.cancel();
  maintain_timer_.cancel();
  for (auto* const session : {session_.get(), maintaining_.get()})
    if (session != nullptr) session->close();  // it may wait for somebody's lock
}

asio::awaitable<void> recorder::sleep(steady::duration longest) {
  timer_.expires_after(longest);
  co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
}

asio::awaitable<void> recorder::progress(steady::duration longest) {
  asio::steady_timer limit{progress_.get_executor(), longest};
  limit.async_wait([this](boost::system::error_code ended) {
    if (!ended) progress_.cancel();  // of all waiters: who was promised longer waits again
  });
  co_await progress_.async_wait(asio::as_tuple(asio::use_awaitable));
}

// --- The stream's side

void recorder::begins_at(const bus::position& from) {
  const auto head = hub_.head();
  const bool goes_on = from.epoch == epoch_ && head.epoch == epoch_ && from <= head;
  timer_.cancel();  // it may wait for the stream
  if (goes_on) return;
  if (!queue_.empty() && !queue_.back().whole && queue_.back().lsn <= from.lsn) {  // the rest of it will not come
    let_go(queue_.back());
    queue_.pop_back();
  }
  if (from.epoch != epoch_) {
    written_.clear();
    queue_.clear();  // positions that mean nothing any more; their messages are given new ones
    held_ = 0;
    last_lsn_ = 0;
    mark_ = {};
  }
  epoch_ = from.epoch;
  start_ = from;
  settled_ = false;
  ++begun_;
}

void recorder::add(transaction piece) {
  if (!queue_.empty() && !queue_.back().whole && queue_.back().lsn == piece.lsn) {
    auto& messages = queue_.back().messages;
    messages.insert(messages.end(), piece.messages.begin(), piece.messages.end());
    held_ += piece.messages.size() * sizeof(message);
    return;
  }
  if (piece.lsn <= last_lsn_) return;
  last_lsn_ = piece.lsn;
  hold(piece);
  queue_.push_back(std::move(piece));
}

void recorder::complete() {
  if (queue_.empty() || std::exchange(queue_.back().whole, true)) return;
  if (queue_.size() > 1) return;
  const bool first = written_.empty();
  forget_recorded();
  if (!queue_.empty() || first) timer_.cancel();
}

void recorder::abandon() {
  // It stays in its place, so that nobody takes what has been published of it for all of it.
  if (queue_.empty() || queue_.back().whole) return;
  held_ -= queue_.back().messages.size() * sizeof(message);
  queue_.back().messages.clear();
}

void recorder::hold(const transaction& one) {
  held_ += sizeof one + one.messages.size() * sizeof(message);
  if (held_ <= settings_.most_held || std::exchange(told_full_, true)) return;
  log::warning("streams",
               "the places of messages in {} transactions are not written down yet, and no more of the WAL is read until some are: see who "
               "holds locks on Postbus's tables, and whether commits wait for a standby",
               queue_.size() + written_.size());
}

void recorder::let_go(const transaction& one) {
  held_ -= sizeof one + one.messages.size() * sizeof(message);
  if (held_ < settings_.most_held / 2) told_full_ = false;
}

void recorder::missed(const bus::position& at) {
  if (!queue_.empty() && !queue_.back().whole && queue_.back().lsn == at.lsn) {  // it was begun once, and its rest will not come either
    let_go(queue_.back());
    queue_.pop_back();
  } else if (at.lsn <= last_lsn_ || (mark_.epoch == epoch_ && at.lsn <= mark_.lsn)) {
    return;
  }
  last_lsn_ = at.lsn;
  start_ = at;  // as if the stream began behind it
  settled_ = false;
  ++begun_;
  timer_.cancel();
}

void recorder::tell_progress() {
  if (!leading_) return;
  asked_ = true;
  timer_.cancel();
}

void recorder::look() {
  looks_ = true;
  timer_.cancel();
}

/** All that ends at or before it has been published whole. */
std::uint64_t recorder::published() const {
  const auto head = hub_.head();
  return head.epoch != epoch_ ? 0 : head.index < bus::position::end_of_commit ? head.lsn - 1 : head.lsn;
}

bus::position recorder::recorded() const {
  if (epoch_ == 0 || mark_.epoch != epoch_ || !mark_.settled || (leading_ && !settled_)) return {};
  // Never beyond what is published here, however far the holder is: who reads that in the tables goes on behind it in the hub.
  auto at = published();
  if (mark_.lsn < start_.lsn)
    at = std::min(at, mark_.lsn);
  else if (!queue_.empty())
    at = std::min(at, std::max(queue_.front().lsn - 1, mark_.lsn));
  return {epoch_, at, bus::position::end_of_commit};
}

std::uint64_t recorder::recorded_lsn() const {
  if (!written_.empty()) return written_.front().lsn - 1;
  if (!queue_.empty()) return queue_.front().lsn - 1;
  if (!leading_) return UINT64_MAX;
  // A slot that is not let past what is noted begins there: the next holder need not look for messages that nobody saw.
  return settled_ && !worth_a_note() ? mark_.lsn : UINT64_MAX;
}

// --- The database's side

asio::awaitable<void> recorder::run() {
  postgres::backoff retry{std::random_device{}()};
  while (!stopped_) {
    auto session = co_await postgres::connection::open(
        {.conninfo = settings_.conninfo,
         .application_name = "postbus streams",
         // The server gives the streams' lock back soon where this process, or its machine, is not there any more.
         .session_options = "-c synchronous_commit=off -c client_connection_check_interval=1s -c tcp_keepalives_idle=10 "
                            "-c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"});
    if (session && !stopped_) {
      session_ = std::make_unique<postgres::connection>(std::move(*session));
      auto ended = co_await be_where_it_is_read(*session_);
      if (ended) {
        retry.succeeded();
        ended = co_await serve(*session_);
      }
      session_.reset();
      leading_ = settled_ = mark_.settled = false;  // a crash of the server may have taken the mark back
      flushing_ = flushing_wal_ = 0;
      if (ended || stopped_) continue;
      log::debug("streams", "the recorder's session ended: {}", ended.error());
      while (!stopped_ && !reads()) co_await sleep(settings_.follow);
    }
    const auto until = steady::now() + retry.next();
    while (!stopped_ && steady::now() < until) co_await sleep(until - steady::now());
  }
}

asio::awaitable<result<>> recorder::serve(postgres::connection& session) {
  while (!stopped_) {
    if (!reads()) {
      log::warning("streams", "this gateway does not read the WAL: another one may write down where the messages of streams stand");
      co_return error{errc::unavailable, "the stream does not come in"};
    }
    if (!leading_) {
      auto locked = co_await session.query(embedded_sql::find("statements/streams/lead.sql"), {}, statement_deadline);
      if (!locked) co_return locked.error();
      leading_ = locked->is_true(0, 0);
      if (!leading_) {
        auto read = co_await read_mark(session);
        if (!read) co_return read;
        if (epoch_ != 0 && mark_.lsn < start_.lsn) {  // the holder writes how far it is only when it writes anything, or is asked
          auto asked = co_await session.query(embedded_sql::find("statements/streams/ask.sql"), {}, statement_deadline);
          if (!asked) co_return asked.error();
        }
        const auto until = steady::now() + settings_.follow;
        while (!stopped_ && steady::now() < until) co_await sleep(until - steady::now());
        continue;
      }
    }
    if (std::exchange(looks_, false)) {
      auto read = co_await read_mark(session);
      if (!read) co_return read;
    }
    if (needs_settling()) {
      auto settled = co_await settle(session);
      if (!settled) co_return settled;
      continue;
    }
    if (epoch_ == 0 || ((queue_.empty() || !queue_.front().whole) && !asked_)) {
      co_await sleep(!written_.empty() ? flush_pause : settings_.reading ? settings_.yield / 3 : steady::duration{24h});
      if (stopped_ || written_.empty() || !queue_.empty()) continue;
      auto seen = co_await session.query(embedded_sql::find("statements/streams/snapshot.sql"), {}, statement_deadline);
      if (!seen) co_return seen.error();
      forget_durable(*seen, 1);
      continue;
    }
    if (settings_.gather.count() > 0 && !asked_) {
      const auto until = steady::now() + settings_.gather;
      while (!stopped_ && steady::now() < until) co_await sleep(until - steady::now());
      if (needs_settling()) continue;
    }
    auto written = co_await write(session, UINT64_MAX);
    if (!written) co_return written;
  }
  co_return result<>{};
}

/** False after too long without the stream. */
bool recorder::reads() {
  const auto now = steady::now();
  if (!settings_.reading || settings_.reading()) read_at_ = now;
  return now - read_at_ < settings_.yield;
}

void recorder::forget_recorded() {
  while (!queue_.empty() && mark_.epoch == epoch_ && queue_.front().whole && queue_.front().lsn <= mark_.lsn) {
    written_.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  measure_lag();
  progress_.cancel();
}

/** Takes from an answer how far the WAL was written when it was asked for, and how far flushed. */
void recorder::forget_durable(const postgres::rows& answer, std::size_t column) {
  const auto inserted = number<std::uint64_t>(answer.text(0, column)), flushed = number<std::uint64_t>(answer.text(0, column + 1));
  if (flushed >= flushing_wal_)
    for (; !written_.empty() && written_.front().lsn <= flushing_; written_.pop_front()) let_go(written_.front());
  if (written_.empty() || written_.front().lsn <= flushing_) return;
  flushing_ = written_.back().lsn;
  flushing_wal_ = inserted;
}

/** The mark has just been read: what lies beyond it is not written down any more. */
void recorder::write_again_what_was_lost() {
  while (!written_.empty() && (mark_.epoch != epoch_ || written_.back().lsn > mark_.lsn)) {
    queue_.push_front(std::move(written_.back()));
    written_.pop_back();
  }
}

void recorder::measure_lag() {
  const auto oldest = queue_.empty() ? UINT64_MAX : queue_.front().lsn, latest = published();
  metrics::set(metrics::gauge::stream_lag_bytes, latest > oldest ? static_cast<std::int64_t>(latest - oldest) : 0);
}

asio::awaitable<result<>> recorder::read_mark(postgres::connection& session) {
  auto found = co_await session.query(embedded_sql::find("statements/streams/mark.sql"), {}, statement_deadline);
  if (!found) co_return found.error();
  if (found->size() != 1) co_return error{errc::database, "the streams' state is missing: restore the row of postbus.stream_recorder"};
  mark_ = {number<std::uint32_t>(found->text(0, 0)), number<std::uint64_t>(found->text(0, 1)), found->is_true(0, 2)};
  write_again_what_was_lost();
  forget_recorded();
  forget_durable(*found, 3);
  co_return result<>{};
}

/** Writes the longest run from the queue's front that everybody can see by now, up to that LSN. */
asio::awaitable<result<>> recorder::write(postgres::connection& session, std::uint64_t up_to) {
  const auto begun = begun_;
  auto seen = co_await session.query(embedded_sql::find("statements/streams/snapshot.sql"), {}, statement_deadline);
  if (!seen) co_return seen.error();
  forget_durable(*seen, 1);
  const auto visible = changes::snapshot::parse(seen->text(0, 0));
  if (!visible) co_return visible.error();
  if (begun != begun_) co_return result<>{};  // what has been published since does not say that all is written down
  const auto epoch = epoch_;
  const bool asked = std::exchange(asked_, false);
  std::vector<place_run> runs;
  boost::unordered_flat_map<std::size_t, std::size_t> open;  // of each stream, its run in the making
  std::size_t transactions = 0, messages = 0;
  for (const auto& t : queue_) {
    if (t.lsn > up_to || !t.whole || messages >= most_messages || !visible->sees(t.xid)) break;
    for (const auto& m : t.messages) {
      const auto [found, fresh] = open.try_emplace(m.stream, runs.size());
      if (fresh || runs[found->second].segment != m.segment || runs[found->second].count >= most_of_a_run) {
        found->second = runs.size();
        runs.push_back({m.segment, 0, 0, {}});
      }
      auto& r = runs[found->second];
      r.lsn = t.lsn;
      ++r.count;
      append_hex(r.hex, {t.lsn, m.index, m.bytes, t.time, m.id});
      ++messages;
    }
    ++transactions;
  }
  if (transactions == 0) {
    if (queue_.empty() && asked) {
      const auto up_to_now = published();
      const auto epoch_text = std::to_string(epoch), lsn = std::to_string(up_to_now);
      const parameter place[] = {epoch_text, lsn};
      auto noted = co_await session.query(embedded_sql::find("statements/streams/settled.sql"), place, statement_deadline);
      if (!noted) co_return noted.error();
      if (noted->size() == 0) co_return error{errc::unavailable, "the epoch has ended"};
      if (epoch == epoch_) mark_.lsn = std::max(mark_.lsn, up_to_now);
    } else if (!queue_.empty() && queue_.front().lsn <= up_to) {
      co_await sleep(invisible_pause);
    }
    co_return result<>{};
  }
  std::string segments, lsns, counts, hex;
  for (const auto& r : runs) {
    append_element(segments, std::to_string(r.segment));
    append_element(lsns, std::to_string(r.lsn));
    append_element(counts, std::to_string(r.count));
    append_element(hex, R"("\\x)" + r.hex + '"');
  }
  // Where nothing waits behind them, what has been published since holds nothing to be written down.
  const bool all = transactions == queue_.size() && up_to == UINT64_MAX;
  const auto last = std::max(queue_[transactions - 1].lsn, all ? published() : 0);
  const auto epoch_text = std::to_string(epoch), last_text = std::to_string(last);
  segments += '}';
  lsns += '}';
  counts += '}';
  hex += '}';
  const parameter parameters[] = {epoch_text, last_text, segments, lsns, counts, hex};
  auto written = co_await session.query(embedded_sql::find("statements/streams/record.sql"), parameters, statement_deadline);
  if (!written) co_return written.error();
  metrics::add(metrics::counter::stream_recorded, messages);
  if (epoch != epoch_) co_return result<>{};
  mark_ = {epoch, last, mark_.settled};
  forget_recorded();
  co_return result<>{};
}

asio::awaitable<void> recorder::maintain() {
  auto noted_at = steady::now();
  bool told_undropped = false, told_unknown = false;  // once, until it works again
  while (!stopped_) {
    auto session =
        co_await postgres::connection::open({.conninfo = settings_.conninfo,
                                             .application_name = "postbus streams maintenance",
                                             // Posters wait for its locks: no standby is waited for with them.
                                             .session_options = "-c synchronous_commit=local -c client_connection_check_interval=1s "
                                                                // Segments are few and runs many: all would be read for each stream.
                                                                "-c enable_seqscan=off"});
    if (session) maintaining_ = std::make_unique<postgres::connection>(std::move(*session));
    if (session && leading_) {
      auto done = co_await maintaining_->query(embedded_sql::find("statements/streams/maintain.sql"), {}, maintain_deadline);
      if (!done && !stopped_ && !std::exchange(told_undropped, true))
        log::warning("streams", "old messages could not be dropped: {}", done.error());
      if (done) told_undropped = false;
    }
    if (session && !stopped_) {
      auto found = co_await maintaining_->query(embedded_sql::find("statements/streams/summary.sql"), {}, statement_deadline);
      if (!found && !stopped_ && !std::exchange(told_unknown, true))
        log::warning("streams", "what streams take is not known, status and metrics stay as they were: {}", found.error());
      if (found) {
        told_unknown = false;
        summary_.store(std::make_shared<const std::string>(found->text(0, 0)));
        metrics::set(metrics::gauge::streams, number<std::int64_t>(found->text(0, 1)));
        metrics::set(metrics::gauge::stream_bytes, number<std::int64_t>(found->text(0, 2)));
        metrics::set(metrics::gauge::stream_segments, number<std::int64_t>(found->text(0, 3)));
        metrics::set(metrics::gauge::streams_past_bytes, number<std::int64_t>(found->text(0, 4)));
      }
    }
    maintaining_.reset();
    measure_lag();
    // So that the next holder need not look for messages that nobody saw.
    if (leading_ && settled_ && queue_.empty() && worth_a_note() && steady::now() - noted_at >= settings_.note &&
        *summary_.load() != "[]") {
      noted_at = steady::now();
      tell_progress();
    }
    // Without a session the recorder's own has the same trouble, and tells.
    const auto until = steady::now() + settings_.maintain;
    while (!stopped_ && steady::now() < until) {
      maintain_timer_.expires_at(until);
      co_await maintain_timer_.async_wait(asio::as_tuple(asio::use_awaitable));
    }
  }
}

}  // namespace postbus::streams
