// The life of a mirrored event: the reader's commit hands it to `send` → the queue → `flush` takes as many as fit one
// transaction, up to the first whose channel and payload stand in it already, because NOTIFY folds equal ones → one
// statement notifies them all → the session's commit. While nothing is mirrored no session is held.
//
// What is lost is told as a gap to all listeners of the gateway, and logged for those who LISTEN themselves: a plain
// channel has no way to say it.
#include "feeds/mirror.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/functional/hash.hpp>
#include <boost/unordered/unordered_flat_set.hpp>

#include <algorithm>
#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"
#include "postgres/backoff.hpp"
#include "postgres/server_error.hpp"

namespace postbus::feeds {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;

constexpr auto statement_deadline = 10s;
constexpr auto follow_up = 1s;         // between two attempts to become the one that mirrors
constexpr auto queue_full_pause = 50ms;
constexpr auto check_after = 100ms;     // of idleness, a session is looked at before it is used
constexpr auto idle_session = 60s;     // after which the session of an idle mirror is closed
constexpr std::string_view queue_full = "54000";

void append_element(std::string& array, std::string_view text) {
  array += array.empty() ? "{\"" : ",\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') array += '\\';
    array += c;
  }
  array += '"';
}

}  // namespace

mirror::mirror(asio::any_io_executor executor, settings given, bus::hub& h)
    : settings_{std::move(given)}, hub_{h}, timer_{std::move(executor)} {}

void mirror::stop() {
  stopped_ = true;
  timer_.cancel();
}

void mirror::send(std::string_view channel, std::string payload, bus::position at) {
  if (hub_.came_before_us(at)) return;  // a gateway before this one may have sent it
  if (queued_bytes_ + payload.size() > settings_.queue_bytes) {
    const auto lost = queue_.size();
    drop_all();
    tell_loss(lost, at, "the queue was full");
  }
  queued_bytes_ += channel.size() + payload.size();
  queue_.push_back({std::string{channel}, std::move(payload), at});
  if (queue_.size() == 1) timer_.cancel();
}

void mirror::drop_all() {
  queue_.clear();
  queued_bytes_ = 0;
}

/** What was committed up to `lsn` another gateway may have sent. */
void mirror::take_over(std::uint64_t lsn) {
  const auto later = std::ranges::find_if(queue_, [&](const note& n) { return n.at.lsn > lsn; });
  if (later == queue_.begin()) return;
  const auto count = static_cast<std::size_t>(later - queue_.begin());
  const auto up_to = std::prev(later)->at;
  for (auto n = queue_.begin(); n != later; ++n) queued_bytes_ -= n->channel.size() + n->payload.size();
  queue_.erase(queue_.begin(), later);
  tell_loss(count, up_to, "another gateway sent them, or did not");
}

void mirror::tell_loss(std::size_t count, bus::position to, std::string_view why) {
  metrics::add(metrics::counter::mirror_lost, count);
  metrics::add(metrics::counter::gaps_mirror);
  log::warning("feeds", "{} mirrored events may be missing on plain channels: {}", count, why);
  to = std::min(to, hub_.head());
  hub_.announce_gap(sent_up_to_ == bus::position{} ? to : std::min(sent_up_to_, to), to, "mirror");
  sent_up_to_ = to;
}

asio::awaitable<void> mirror::sleep(steady::duration longest) {
  timer_.expires_after(longest);
  co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
}

asio::awaitable<void> mirror::run() {
  postgres::backoff retry{std::random_device{}()};
  while (!stopped_) {
    if (queue_.empty()) {
      co_await sleep(24h);
      continue;
    }
    auto session = co_await postgres::connection::open(
        {.conninfo = settings_.conninfo, .application_name = "postbus mirror", .session_options = "-c synchronous_commit=off"});
    if (session) {
      retry.succeeded();
      auto ended = co_await serve(*session);
      if (ended || stopped_) continue;
      log::debug("feeds", "the mirror's session ended: {}", ended.error());
    }
    const auto until = steady::now() + retry.next();
    while (!stopped_ && steady::now() < until) co_await sleep(until - steady::now());
  }
}

/** Succeeds when there was nothing to mirror for a while; fails with the session. */
asio::awaitable<result<>> mirror::serve(postgres::connection& session) {
  bool leading = false;
  auto last_used = steady::now();
  while (!stopped_) {
    if (queue_.empty()) {
      if (steady::now() - last_used >= idle_session) co_return result<>{};
      co_await sleep(idle_session);
      continue;
    }
    if (steady::now() - last_used >= check_after) {  // a session that died meanwhile must not take these along
      auto alive = co_await session.wait_notifications(0s);
      if (!alive && alive.error().code != errc::timed_out) co_return alive;
    }
    last_used = steady::now();
    if (!leading) {
      auto locked = co_await session.query(embedded_sql::find("statements/feeds/mirror_lead.sql"), {}, statement_deadline);
      if (!locked) co_return locked.error();
      leading = locked->is_true(0, 0);
      if (leading && std::exchange(another_leads_, false)) take_over(number<std::uint64_t>(locked->text(0, 1)));
      if (!leading) {
        another_leads_ = true;
        drop_all();  // it reads the same WAL and sends them
        const auto until = steady::now() + follow_up;
        while (!stopped_ && steady::now() < until) co_await sleep(until - steady::now());
        drop_all();
        continue;
      }
    }
    if (queue_.empty()) continue;
    auto flushed = co_await flush(session);
    if (!flushed) co_return flushed;
  }
  co_return result<>{};
}

asio::awaitable<result<>> mirror::flush(postgres::connection& session) {
  std::string channels, payloads;
  boost::unordered_flat_set<std::pair<std::string_view, std::string_view>, boost::hash<std::pair<std::string_view, std::string_view>>> seen;
  std::size_t count = 0, bytes = 0;
  while (count < queue_.size() && payloads.size() < settings_.transaction_bytes) {
    const auto& n = queue_[count];
    if (!seen.emplace(n.channel, n.payload).second) break;
    append_element(channels, n.channel);
    append_element(payloads, n.payload);
    bytes += n.channel.size() + n.payload.size();
    ++count;
  }
  channels += '}';
  payloads += '}';
  const auto up_to = queue_[count - 1].at;
  // They stay in the queue's memory no longer: whatever happens to the statement, none of them is sent twice.
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(count));
  queued_bytes_ -= bytes;
  const postgres::parameter parameters[] = {channels, payloads};
  for (;;) {
    auto sent = co_await session.query(embedded_sql::find("statements/feeds/mirror_notify.sql"), parameters, statement_deadline);
    if (sent) {
      metrics::add(metrics::counter::mirrored, count);
      sent_up_to_ = up_to;
      co_return result<>{};
    }
    if (sent.error().code == errc::database && postgres::sqlstate(sent.error()) == queue_full && !stopped_) {
      co_await sleep(queue_full_pause);
      continue;
    }
    tell_loss(count, up_to, sent.error().detail.empty() ? sent.error().text : sent.error().detail);
    if (sent.error().code == errc::database) co_return result<>{};
    co_return sent.error();
  }
}

}  // namespace postbus::feeds
