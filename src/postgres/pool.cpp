// Invariants: (1) idle sessions and waiters are never there at the same time; (2) `made` counts idle and lent sessions and
// those being opened, and never exceeds options.sessions; (3) a slot that gets free goes to the first waiter, with the
// session or, when that broke, with the right to open another.
#include "postgres/pool.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <list>
#include <random>
#include <utility>
#include <vector>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "postgres/backoff.hpp"

namespace postbus::postgres {

using session_ptr = std::unique_ptr<connection>;

struct pool::state {
  state(asio::any_io_executor given, pool_options chosen)
      : executor{std::move(given)}, options{std::move(chosen)}, between_attempts{std::random_device{}()} {}

  /** One who waits. Granted: it owns a slot, with the session in it or without. */
  struct waiter {
    waiter(state& in, steady::time_point deadline)
        : owner{in}, timer{in.executor, deadline}, place{in.waiting.insert(in.waiting.end(), this)} {}
    waiter(const waiter&) = delete;
    waiter& operator=(const waiter&) = delete;
    ~waiter() {
      if (!granted)
        owner.waiting.erase(place);
      else if (!taken)
        owner.give_back(std::move(session));
    }
    state& owner;
    asio::steady_timer timer;
    std::list<waiter*>::iterator place;
    session_ptr session;
    bool granted{}, taken{};
  };

  /** A slot gets free. `session`: null, or closed, when there is none to reuse. */
  void give_back(session_ptr session) {
    if (session && (closed || !session->is_open())) session.reset();
    if (closed || waiting.empty()) {
      if (session)
        idle.push_back(std::move(session));
      else
        --made;
      return;
    }
    auto* first = waiting.front();
    waiting.pop_front();
    first->granted = true;
    first->session = std::move(session);
    first->timer.cancel();
  }

  void fail_waiters() {
    for (auto* one : waiting) one->timer.cancel();
  }

  asio::any_io_executor executor;
  pool_options options;
  backoff between_attempts;
  steady::time_point retry_at{};
  error last_failure;
  std::vector<session_ptr> idle;
  std::list<waiter*> waiting;
  std::size_t made{};
  bool closed{};
};

namespace {

error closed_pool() { return {errc::unavailable, "the database sessions are closed"}; }

}  // namespace

pool::lease::lease(std::shared_ptr<state> from, std::unique_ptr<connection> session)
    : from_{std::move(from)}, session_{std::move(session)} {}
pool::lease::lease(lease&&) noexcept = default;
pool::lease& pool::lease::operator=(lease&& other) noexcept {
  std::swap(from_, other.from_);
  std::swap(session_, other.session_);
  return *this;
}
pool::lease::~lease() {
  if (from_) from_->give_back(std::move(session_));
}

pool::pool(asio::any_io_executor executor, pool_options options)
    : state_{std::make_shared<state>(std::move(executor), std::move(options))} {}
pool::~pool() { close(); }

void pool::close() {
  auto& s = *state_;
  s.closed = true;
  s.made -= s.idle.size();
  s.idle.clear();
  s.fail_waiters();
}

std::size_t pool::idle() const { return state_->idle.size(); }
std::size_t pool::sessions() const { return state_->made; }

asio::awaitable<result<pool::lease>> pool::acquire(steady::duration within) {
  const auto s = state_;  // the pool may go while we wait
  const auto deadline = steady::now() + within;
  session_ptr session;
  if (s->closed) co_return closed_pool();
  while (!s->idle.empty() && !session) {
    session = std::move(s->idle.back());
    s->idle.pop_back();
    if (!session->check_idle()) {
      session.reset();
      --s->made;
    }
  }
  if (session) co_return lease{s, std::move(session)};
  if (s->made < s->options.sessions) {
    ++s->made;
  } else {
    if (s->waiting.size() >= s->options.waiters) co_return error{errc::too_many, "too many requests wait for the database; slow down"};
    state::waiter me{*s, deadline};
    co_await me.timer.async_wait(asio::as_tuple(asio::use_awaitable));
    if (!me.granted && s->closed) co_return closed_pool();
    if (!me.granted) co_return error{errc::timed_out, "no database session became free in time"};
    me.taken = true;
    session = std::move(me.session);
    if (session) co_return lease{s, std::move(session)};
  }

  // The slot is ours and has no session. From here on the lease gives it back, whatever happens.
  lease slot{s, nullptr};
  if (s->closed) co_return closed_pool();
  if (steady::now() < s->retry_at) co_return s->last_failure;
  auto options = s->options.session;
  options.deadline = std::min(options.deadline, deadline - steady::now());
  auto opened = co_await connection::open(std::move(options));
  if (!opened) {
    s->last_failure = opened.error();
    s->last_failure.code = errc::unavailable;
    s->retry_at = steady::now() + s->between_attempts.next();
    log::warning("pool", "no database session: {}", opened.error());
    co_return opened.error();
  }
  if (s->between_attempts.failures() > 0) metrics::add(metrics::counter::reconnects);
  s->between_attempts.succeeded();
  slot.session_ = std::make_unique<connection>(std::move(*opened));
  co_return slot;
}

}  // namespace postbus::postgres
