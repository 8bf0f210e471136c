// Settling. When the holder begins, and when its stream begins anew, it must know that everything committed before its
// stream's start has been written down. Where the last holder came at least as far, it has, and what a slot holds from before
// our start only comes again. Otherwise, once that has been read (bus::hub::serving), there may be
// messages that no gateway saw: they are those that a snapshot sees and that neither the tables nor the queue, once the
// stream has passed that snapshot's LSN, know of. They get positions at the stream's start, in the order of their ids:
// after all that was delivered, before all that will be. In a new epoch what is kept is renumbered first.
//
// A commit is streamed before it can be seen, by hours where it waits for a standby. So the invariant: the snapshot of an
// adoption sees whatever was committed before the stream's start. Nobody need know what that was: whoever has posted and has
// not ended when the start has been read (posters.sql) is waited for, and who comes later commits behind the start.
//
// Not guaranteed: the commit order among messages that no gateway saw; PostgreSQL does not tell it afterwards.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/log.hpp"
#include "base/number.hpp"
#include "changes/visibility.hpp"
#include "embedded_sql.hpp"
#include "streams/recorder.hpp"

namespace postbus::streams {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using postgres::parameter;

constexpr auto settle_deadline = 5min;
constexpr auto catching_up_pause = 20ms;

/** While it lives the queue's bound does not keep the stream from being read. */
struct reading_on {
  explicit reading_on(bool& f) : flag{f} { flag = true; }
  reading_on(const reading_on&) = delete;
  ~reading_on() { flag = false; }
  bool& flag;
};

}  // namespace

/**
 * Returns when the reader reads this server. A database that was restored, or a standby that was promoted, may be there before the reader
 * has found out that positions are others: what is written down there in the old ones is told of messages that happen to have their ids.
 */
asio::awaitable<result<>> recorder::be_where_it_is_read(postgres::connection& session) {
  if (!settings_.instance) co_return result<>{};
  auto asked = co_await session.query(embedded_sql::find("statements/instance.sql"), {}, statement_deadline);
  if (!asked) co_return asked.error();
  const std::string here{asked->text(0, 0)};
  while (!stopped_ && settings_.instance() != here) {
    if (settings_.reading && settings_.reading()) co_return error{errc::unavailable, "it is not the server whose WAL is read"};
    co_await sleep(settings_.follow);
    if (settings_.instance() == here) read_at_ = steady::now();  // the stream is about to start
  }
  co_return result<>{};
}

asio::awaitable<result<>> recorder::settle(postgres::connection& session) {
  const auto begun = begun_;
  const auto start = start_;
  auto read = co_await read_mark(session);
  if (!read) co_return read;
  if (mark_.epoch != start.epoch || !mark_.settled || mark_.lsn < start.lsn) {
    // What the slot holds from before our start is not to be taken for messages that nobody saw: it is about to come.
    {
      const reading_on more{reading_on_};
      while (!stopped_ && begun == begun_ && reads() && !hub_.serving()) co_await sleep(catching_up_pause);
    }
    if (stopped_ || begun != begun_ || !reads()) co_return result<>{};
    mark_.settled = false;
    if (mark_.epoch != start.epoch) {
      auto renumbered = co_await renumber(session, start.epoch);
      if (!renumbered) co_return renumbered;
    }
    if (stopped_ || begun != begun_) co_return result<>{};
    while (!stopped_ && !queue_.empty() && queue_.front().lsn <= start.lsn) {
      auto written = co_await write(session, start.lsn);
      if (!written) co_return written;
    }
    auto seen = co_await see_all_before_start(session);
    if (!seen) co_return seen;
    if (stopped_ || begun != begun_) co_return result<>{};
    auto adopted = co_await adopt(session, start);
    if (!adopted) co_return adopted;
    read = co_await read_mark(session);
    if (!read) co_return read;
  }
  if (begun == begun_) settled_ = true;
  progress_.cancel();
  co_return result<>{};
}

/** Gives what is kept positions of that epoch, piece by piece: the WAL of one transaction is not held back for long. */
asio::awaitable<result<>> recorder::renumber(postgres::connection& session, std::uint32_t to_epoch) {
  const auto begun = begun_;
  const auto epoch = std::to_string(to_epoch);
  const parameter parameters[] = {epoch};
  const auto tell_at = steady::now() + statement_deadline;
  bool told = false;
  while (!stopped_ && begun == begun_) {
    auto done = co_await session.query(embedded_sql::find("statements/streams/renumber.sql"), parameters, settle_deadline);
    if (!done) co_return done.error();
    if (done->is_true(0, 0)) break;
    if (!told && steady::now() > tell_at) {
      told = true;
      log::warning(
          "streams",
          "what streams keep cannot be read before it has positions of the new epoch: transactions that have acknowledged must end "
          "first, and much may be kept");
    }
    co_await sleep(catching_up_pause);
  }
  co_return result<>{};
}

/** Returns when a snapshot sees everything that was committed before the stream's start, or when the stream begins anew. */
asio::awaitable<result<>> recorder::see_all_before_start(postgres::connection& session) {
  const auto begun = begun_;
  auto posters = co_await session.query(embedded_sql::find("statements/streams/posters.sql"), {}, statement_deadline);
  if (!posters) co_return posters.error();
  const auto tell_at = steady::now() + statement_deadline;
  bool told = false;
  steady::duration pause = catching_up_pause;
  while (!stopped_ && begun == begun_) {
    auto seen = co_await session.query(embedded_sql::find("statements/streams/snapshot.sql"), {}, statement_deadline);
    if (!seen) co_return seen.error();
    const auto visible = changes::snapshot::parse(seen->text(0, 0));
    if (!visible) co_return visible.error();
    std::uint64_t missing = 0;
    for (std::size_t i = 0; i < posters->size() && missing == 0; ++i)
      if (const auto xid = number<std::uint64_t>(posters->text(i, 0)); !visible->sees(xid)) missing = xid;
    if (missing == 0) break;
    if (!told && steady::now() > tell_at) {
      told = true;
      log::warning(
          "streams",
          "what streams keep cannot be read before transaction {} ends: it may have committed without being visible (pg_stat_activity and "
          "pg_prepared_xacts show whose it is)",
          missing);
    }
    co_await sleep(pause);
    pause = std::min<steady::duration>(2 * pause, 1s);
  }
  co_return result<>{};
}

asio::awaitable<result<>> recorder::adopt(postgres::connection& session, bus::position start) {
  const auto begun = begun_;
  auto began = co_await session.execute(embedded_sql::find("statements/streams/adopt_begin.sql"), statement_deadline);
  if (!began) co_return began.error();
  const auto up_to = number<std::uint64_t>(began->text(0, 0));
  {
    // A commit after it, so that the stream passes that LSN though nobody else writes. It is flushed and waits for no standby.
    auto other = co_await postgres::connection::open(
        {.conninfo = settings_.conninfo, .application_name = "postbus streams", .session_options = "-c synchronous_commit=local"});
    if (!other) co_return other.error();
    auto passed = co_await other->query(embedded_sql::find("statements/streams/ask.sql"), {}, statement_deadline);
    if (!passed) co_return passed.error();
  }
  const auto limit = steady::now() + settle_deadline;
  const reading_on more{reading_on_};
  while (!stopped_ && begun == begun_ &&
         (hub_.head().epoch != start.epoch || hub_.head() < bus::position{start.epoch, up_to, bus::position::end_of_commit})) {
    if (steady::now() > limit || !reads()) co_return error{errc::timed_out, "the WAL is not read as far as the messages to be adopted"};
    co_await sleep(5ms);
  }
  if (stopped_ || begun != begun_) co_return error{errc::unavailable, "the stream began anew"};
  std::map<std::int32_t, std::vector<std::uint64_t>> known;  // ids of each segment
  for (const auto& t : queue_)
    for (const auto& m : t.messages) known[m.segment].push_back(m.id);
  const auto epoch = std::to_string(start.epoch), lsn = std::to_string(start.lsn);
  auto segments = co_await session.execute(embedded_sql::find("statements/streams/adopt_segments.sql"), statement_deadline);
  if (!segments) co_return segments.error();
  std::uint64_t count = 0;
  for (std::size_t row = 0; row < segments->size() && !stopped_; ++row) {  // one by one: a deadline holds however many there are
    const std::string segment{segments->text(row, 0)}, ids = fmt::format("{{{}}}", fmt::join(known[number<std::int32_t>(segment)], ","));
    const parameter parameters[] = {epoch, lsn, segment, ids};
    auto adopted = co_await session.query(embedded_sql::find("statements/streams/adopt.sql"), parameters, settle_deadline);
    if (!adopted) co_return adopted.error();
    count += number<std::uint64_t>(adopted->text(0, 0));
  }
  if (stopped_) co_return result<>{};
  const parameter place[] = {epoch, lsn};
  auto noted = co_await session.query(embedded_sql::find("statements/streams/settled.sql"), place, statement_deadline);
  if (!noted) co_return noted.error();
  if (noted->size() == 0) co_return error{errc::unavailable, "the epoch has ended"};
  auto committed = co_await session.execute("commit", settle_deadline);
  if (!committed) co_return committed.error();
  if (count > 0) log::info("streams", "{} messages that no gateway had seen have been given positions", count);
  co_return result<>{};
}

}  // namespace postbus::streams
