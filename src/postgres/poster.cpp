// The life of a post. 1. post() puts it into the queue of its channel's lane (by hash, so that a channel keeps its order)
// and suspends. 2. The lane borrows a session and takes a batch off its queue. 3. One pipeline, one round trip: a transaction
// of all the batch's posts, then the insert LSN. 4. Committed: every caller gets the LSN. Refused: nothing was posted, and
// the batch goes again, each message in a transaction of its own; what is refused now is refused for good. 5. The session
// broke: nobody knows, and the callers are told so.
#include "postgres/poster.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <array>
#include <functional>
#include <list>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "embedded_sql.hpp"
#include "postgres/replication_stream.hpp"

namespace postbus::postgres {
namespace {

using batch = std::vector<pending_post>;

/** The outcome of a whole batch: how each message fared, or that its transaction was rolled back and must go again. */
struct batch_outcome {
  std::vector<result<std::uint64_t>> each;
  bool rolled_back{};
};

error unknown_outcome(error e) {
  e.text = "the message may have been posted: " + e.text;
  return e;
}

/** Posts a batch in one round trip, in one transaction or (`alone`) in one each. The error: the session broke. */
asio::awaitable<result<batch_outcome>> send(connection& session, const batch& posts, bool alone, steady::time_point deadline) {
  std::vector<std::array<parameter, 2>> arguments;
  std::vector<connection::statement> statements;
  arguments.reserve(posts.size());
  statements.reserve(posts.size() + 1);
  for (const auto& p : posts) {
    const auto& bound = arguments.emplace_back(std::array<parameter, 2>{p.channel, p.payload});
    const auto sql = embedded_sql::find(p.form == post_form::json ? "statements/post_json.sql" : "statements/post_text.sql");
    statements.push_back({sql, bound, !alone && arguments.size() < posts.size()});
  }
  statements.push_back({embedded_sql::find("statements/insert_lsn.sql"), {}});
  auto done = co_await session.pipeline(statements, deadline - steady::now());
  if (!done) co_return done.error();

  auto& results = *done;
  auto last = std::move(results.back());
  results.pop_back();
  const auto lsn = last ? parse_lsn(last->text(0, 0)) : std::nullopt;
  batch_outcome outcome;
  for (auto& one : results) {
    if (!one) {
      outcome.each.emplace_back(for_client(one.error()));
      outcome.rolled_back = !alone && posts.size() > 1;
    } else if (lsn) {
      outcome.each.emplace_back(*lsn);
    } else {
      outcome.each.emplace_back(
          error{errc::internal, "the message was posted, but the database does not tell its position", last ? "" : last.error().detail});
    }
  }
  co_return outcome;
}

}  // namespace

struct poster::impl {
  struct lane {
    explicit lane(const asio::any_io_executor& executor) : wake{executor, steady::time_point::max()} {}
    post_queue queue;
    asio::steady_timer wake;
  };

  impl(asio::any_io_executor given, pool& from, post_limits chosen, std::size_t lane_count)
      : executor{std::move(given)}, sessions{from}, limits{chosen} {
    for (std::size_t i = 0; i < lane_count; ++i) lanes.emplace_back(executor);
  }

  asio::awaitable<void> run() {
    auto left = lanes.size();
    std::exception_ptr thrown;
    co_await suspend<bool>([&](resumer<bool> all_ended) {
      auto resume = std::make_shared<resumer<bool>>(std::move(all_ended));
      for (auto& l : lanes) {
        asio::co_spawn(executor, serve(l), [&left, &thrown, resume](std::exception_ptr e) {
          if (e) thrown = e;
          if (--left == 0) (*resume)(true);
        });
      }
    });
    if (thrown) std::rethrow_exception(thrown);
  }

  asio::awaitable<void> serve(lane& l) {
    for (;;) {
      if (l.queue.empty()) {
        if (stopping) co_return;
        l.wake.expires_at(steady::time_point::max());
        co_await l.wake.async_wait(asio::as_tuple(asio::use_awaitable));
        continue;
      }
      auto session = co_await sessions.acquire(l.queue.deadline() - steady::now());
      for (auto& late : l.queue.take_expired(steady::now()))
        finish(late, error{errc::timed_out, "the database did not take the message in time; it was not posted"});
      if (!session && session.error().code != errc::timed_out) {
        for (auto& refused : l.queue.take_all()) finish(refused, session.error());
      }
      if (!session || l.queue.empty()) continue;
      auto posts = l.queue.take_batch(limits);
      co_await post_all(**session, posts);
    }
  }

  asio::awaitable<void> post_all(connection& session, batch& posts) {
    const auto deadline = posts.back().deadline;  // the last to arrive waits longest
    auto sent = co_await send(session, posts, false, deadline);
    if (sent && sent->rolled_back) sent = co_await send(session, posts, true, deadline);
    for (std::size_t i = 0; i < posts.size(); ++i) {
      if (sent)
        finish(posts[i], std::move(sent->each[i]));
      else
        finish(posts[i], unknown_outcome(sent.error()));
    }
    if (!sent) log::warning("poster", "a session broke under {} messages: {}", posts.size(), sent.error());
  }

  void finish(pending_post& one, result<std::uint64_t> outcome) {
    if (outcome)
      metrics::add(metrics::counter::posts_ok);
    else
      metrics::add(traits(outcome.error().code).retry ? metrics::counter::posts_failed : metrics::counter::posts_refused);
    --queued;
    queued_bytes -= one.bytes();
    one.resume(std::move(outcome));
  }

  asio::any_io_executor executor;
  pool& sessions;
  post_limits limits;
  std::list<lane> lanes;
  std::size_t queued{};
  std::size_t queued_bytes{};
  bool stopping{};
};

poster::poster(asio::any_io_executor executor, pool& sessions, post_limits limits, std::size_t lanes)
    : impl_{std::make_unique<impl>(std::move(executor), sessions, limits, lanes)} {}
poster::~poster() = default;

asio::awaitable<void> poster::run() { return impl_->run(); }

void poster::stop() {
  impl_->stopping = true;
  for (auto& l : impl_->lanes) l.wake.cancel();
}

std::size_t poster::queued() const { return impl_->queued; }

asio::awaitable<result<std::uint64_t>> poster::post(std::string channel, post_form form, std::string payload) {
  auto& self = *impl_;
  pending_post one{std::move(channel), std::move(payload), form, steady::now() + self.limits.deadline};
  error refusal;
  if (self.stopping)
    refusal = {errc::draining, "the gateway is shutting down; the message was not posted"};
  else if (one.channel.contains('\0'))
    refusal = {errc::invalid_channel, "a channel name cannot hold a NUL byte"};
  else if (one.payload.contains('\0'))
    refusal = {errc::invalid_argument, "PostgreSQL text cannot hold a NUL byte; post it as JSON or encode it"};
  else if (self.queued >= self.limits.queued || self.queued_bytes + one.bytes() > self.limits.queued_bytes)
    refusal = {errc::too_many, "too many messages wait to be posted; slow down"};
  if (!refusal.text.empty()) {
    metrics::add(traits(refusal.code).retry ? metrics::counter::posts_failed : metrics::counter::posts_refused);
    co_return refusal;
  }
  ++self.queued;
  self.queued_bytes += one.bytes();
  auto lane = std::next(self.lanes.begin(), static_cast<std::ptrdiff_t>(std::hash<std::string>{}(one.channel) % self.lanes.size()));
  co_return co_await suspend<result<std::uint64_t>>([&one, lane](resumer<result<std::uint64_t>> resume) {
    one.resume = std::move(resume);
    lane->queue.push(std::move(one));
    lane->wake.cancel();
  });
}

}  // namespace postbus::postgres
