#include "app/tier_watch.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <utility>

#include "base/log.hpp"

namespace postbus::app {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using postgres::tier;

constexpr auto probe_deadline = 5s;

}  // namespace

tier_watch::tier_watch(asio::any_io_executor executor, settings given, tier decided, std::function<bool()> reads)
    : settings_{std::move(given)},
      wal_{decided.transport == tier::kind::wal},
      reads_{std::move(reads)},
      timer_{std::move(executor)},
      tier_{std::move(decided)} {}

tier tier_watch::now() const {
  if (wal_ && reads_()) return {};
  const std::scoped_lock lock{guard_};
  return tier_;
}

void tier_watch::stop() {
  stopped_ = true;
  timer_.cancel();
}

void tier_watch::look_again() {
  if (wal_) return;
  asked_ = true;
  timer_.cancel();
}

asio::awaitable<void> tier_watch::run() {
  bool was_read = true;  // a reader that has just begun is given the time between two looks
  while (!stopped_) {
    timer_.expires_after(settings_.look_every);
    boost::system::error_code woken;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
    if (stopped_) break;
    const bool read = wal_ && reads_();
    const bool doubtful = wal_ ? !read && !was_read : asked_ || !now().certain;
    was_read = read;
    if (doubtful) co_await look();
  }
}

asio::awaitable<void> tier_watch::look() {
  const auto facts = co_await postgres::probe(settings_.db, settings_.direct, probe_deadline);
  if (!facts || stopped_) co_return;  // away again: the problem of the day, and asked about once more
  asked_ = false;
  auto found = postgres::choose_tier(*facts);
  const bool could = found.transport == tier::kind::wal && found.certain;
  if (!wal_ && could) {
    found.reason = "this gateway began when the WAL could not be read, which it can be now";
    found.fix = "restart the gateway";
  }
  {
    const std::scoped_lock lock{guard_};
    if (found.reason == tier_.reason && found.fix == tier_.fix && found.certain == tier_.certain) co_return;
    found.transport = tier_.transport;
    tier_ = found;
  }
  if (!found.reason.empty()) log::warning("serve", "{}; to change that: {}", found.reason, found.fix);
}

}  // namespace postbus::app
