#include "changes/attendant.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"
#include "postgres/backoff.hpp"

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using postgres::parameter;

constexpr auto statement_deadline = 5s;

}  // namespace

attendant::attendant(asio::any_io_executor executor, settings given)
    : settings_{std::move(given)}, policy_{settings_.flush}, timer_{executor} {}

void attendant::stop() {
  stopped_ = true;
  timer_.cancel();
  if (session_) session_->close();  // it may wait for somebody's lock
}

void attendant::slot(std::string name, std::string held, std::uint64_t awaited) {
  slot_ = std::move(name);
  held_ = std::move(held);
  awaited_.reset();
  if (awaited != 0) awaited_ = std::to_string(awaited);
  next_health_ = {};
  timer_.cancel();
}

void attendant::arrived(steady::duration after, bool caught_up) {
  if (settings_.poke && !poke_refused_ && policy_.arrived(steady::now(), after, caught_up)) timer_.cancel();
}

void attendant::look() {
  if (settings_.visibility && settings_.visibility->due() < sleeping_until_) timer_.cancel();
}

asio::awaitable<void> attendant::sleep_until(steady::time_point until) {
  sleeping_until_ = until;
  timer_.expires_at(until);
  co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
}

asio::awaitable<void> attendant::run() {
  postgres::backoff retry{std::random_device{}()};
  while (!stopped_) {
    // The session is held only while there is a slot to look after.
    while (!stopped_ && slot_.empty()) co_await sleep_until(steady::time_point::max());
    if (stopped_) break;
    postgres::connect_options options;
    options.conninfo = settings_.conninfo;
    options.application_name = "postbus attendant";
    options.session_options = "-c synchronous_commit=local";  // a standby's confirmation is not waited for
    auto session = co_await postgres::connection::open(std::move(options));
    if (session && !stopped_) {
      retry.succeeded();
      session_ = std::make_unique<postgres::connection>(std::move(*session));
      const auto ended = co_await attend(*session_);
      session_.reset();
      if (stopped_ || ended) continue;
      log::debug("changes", "the attendant's session ended: {}", ended.error().text);
    }
    if (!stopped_) co_await sleep_until(steady::now() + retry.next());
  }
}

/** Succeeds when there is no slot any more; fails with the session. */
asio::awaitable<result<>> attendant::attend(postgres::connection& session) {
  while (!stopped_ && !slot_.empty()) {
    const auto now = steady::now();
    if (now >= next_health_) {
      next_health_ = now + settings_.health_every;
      auto measured = co_await measure(session);
      if (!measured) co_return measured;
    } else if (policy_.polling() && now >= policy_.next()) {
      auto poked = co_await poke(session);
      if (!poked) co_return poked;
    } else if (settings_.visibility && now >= settings_.visibility->due()) {
      auto asked = co_await ask_what_is_visible(session);
      if (!asked) co_return asked;
    } else {
      auto next = policy_.polling() ? std::min(policy_.next(), next_health_) : next_health_;
      if (settings_.visibility) next = std::min(next, settings_.visibility->due());
      co_await sleep_until(next);
    }
  }
  co_return result<>{};
}

asio::awaitable<result<>> attendant::poke(postgres::connection& session) {
  auto poked = co_await session.query(embedded_sql::find("statements/changes/flush_poke.sql"), {}, statement_deadline);
  const bool found = poked && poked->size() > 0;
  policy_.polled(steady::now(), found);
  if (found) metrics::add(metrics::counter::flush_pokes);
  if (poked) co_return result<>{};
  if (poked.error().code != errc::database) co_return poked.error();
  if (!std::exchange(poke_refused_, true))
    log::warning("changes",
                 "messages of transactions with synchronous_commit=off will come up to 0.5 s late: the database refused the flush that "
                 "hurries them: {}",
                 poked.error());
  while (policy_.polling()) policy_.polled(steady::time_point::max(), false);
  co_return result<>{};
}

asio::awaitable<result<>> attendant::ask_what_is_visible(postgres::connection& session) {
  auto& of = *settings_.visibility;
  const bool with_writers = of.wants_writers();
  const auto question = of.ask(steady::now());
  const auto statement = with_writers ? "statements/changes/visible_writers.sql" : "statements/changes/visible.sql";
  auto found = co_await session.query(embedded_sql::find(statement), {}, statement_deadline);
  if (!found) co_return found.error().code == errc::database ? result<>{} : result<>{found.error()};
  auto seen = snapshot::parse(found->text(0, 0));
  if (!seen) co_return seen.error();
  std::vector<visibility::writer> writers;
  for (std::size_t row = 0; with_writers && row < found->size(); ++row)
    if (found->get(row, 1)) writers.push_back({number<std::uint64_t>(found->text(row, 1)), std::string{found->text(row, 2)}});
  of.answer(question, std::move(*seen), with_writers ? &writers : nullptr);
  co_return result<>{};
}

asio::awaitable<result<>> attendant::measure(postgres::connection& session) {
  const parameter parameters[] = {slot_, held_, awaited_ ? parameter{*awaited_} : parameter{}};
  auto health = co_await session.query(embedded_sql::find("statements/changes/slot_health.sql"), parameters, statement_deadline);
  if (!health) co_return health.error().code == errc::database ? result<>{} : result<>{health.error()};
  slot_health found;
  if (health->size() > 0)
    found = {.retained_bytes = number<std::uint64_t>(health->text(0, 0)),
             .keep_bytes = number<std::uint64_t>(health->text(0, 2)),
             .xmin_age = number<std::uint64_t>(health->text(0, 1)),
             .at_lsn = number<std::uint64_t>(health->text(0, 5)),
             .epoch = number<std::uint32_t>(health->text(0, 6)),
             .feeds_fault = std::string{health->text(0, 3)},
             .ended = health->is_true(0, 7)};
  if (health->size() > 0 && health->get(0, 4)) found.free_from = number<std::uint64_t>(health->text(0, 4));
  metrics::set(metrics::gauge::retained_wal_bytes, static_cast<std::int64_t>(found.retained_bytes));
  metrics::set(metrics::gauge::oldest_xmin_age, static_cast<std::int64_t>(found.xmin_age));
  const bool faulty = !found.feeds_fault.empty();
  if (settings_.on_health) settings_.on_health(found);
  if (!faulty) co_return result<>{};
  co_return co_await mend(session);
}

asio::awaitable<result<>> attendant::mend(postgres::connection& session) {
  auto mended = co_await session.query(embedded_sql::find("statements/changes/mend_feeds.sql"), {}, statement_deadline);
  const bool late = !mended && mended.error().code == errc::timed_out;
  if (!mended && mended.error().code != errc::database && !late) co_return mended.error();
  if (settings_.on_mended)
    settings_.on_mended(mended ? std::string{mended->text(0, 0)}
                        : late ? "the feeds could not be mended in time: somebody holds a lock on the publication or a watched table"
                               : "the database refused to mend the feeds: " + mended.error().detail);
  co_return late ? result<>{mended.error()} : result<>{};
}

}  // namespace postbus::changes
