#include "postgres/listen_policy.hpp"

#include <algorithm>

#include "embedded_sql.hpp"
#include "postgres/connection.hpp"

namespace postbus::postgres {
namespace {

/** A session that lived this long was a good one: the waits between attempts start from the shortest again. */
constexpr auto healthy = std::chrono::seconds{10};

}  // namespace

std::optional<listen_policy::ticket> listen_policy::listen(std::string_view channel) {
  if (state_ == state::waiting) return std::nullopt;
  auto at = channels_.find(channel);
  if (at == channels_.end()) at = channels_.emplace(channel, entry{}).first;
  auto& e = at->second;
  ++e.listeners;
  e.leave = steady::time_point::max();
  if (e.generation) return 0;
  if (e.queued) return e.queued;
  return queue(at->first, e);
}

void listen_policy::unlisten(std::string_view channel, steady::time_point now) {
  const auto at = channels_.find(channel);
  if (at == channels_.end() || at->second.listeners == 0) return;
  if (--at->second.listeners > 0) return;
  at->second.leave = now + limits_.linger;
  lingering_.emplace_back(at->second.leave, at->first);
}

listen_policy::ticket listen_policy::queue(const std::string& channel, entry& e) {
  to_listen_.push_back(channel);
  return e.queued = ++queued_;
}

void listen_policy::drop_expired(steady::time_point now) {
  while (!lingering_.empty() && lingering_.front().first <= now) {
    const auto [leave, channel] = std::move(lingering_.front());
    lingering_.pop_front();
    const auto at = channels_.find(channel);
    if (at == channels_.end() || at->second.leave != leave) continue;
    // A LISTEN that is queued or running has to end first; the next turn finds the entry here again.
    if (at->second.queued) {
      lingering_.emplace_front(leave, channel);
      return;
    }
    if (at->second.generation) {
      to_unlisten_.push_back(channel);
      --listening_;
    }
    channels_.erase(at);
  }
}

std::optional<std::string> listen_policy::next_listens() {
  if (to_listen_.empty()) return std::nullopt;
  std::string sql;
  while (!to_listen_.empty() && running_.size() < limits_.batch) {
    running_.push_back(std::move(to_listen_.front()));
    to_listen_.pop_front();
    sql += "listen " + quote_identifier(running_.back()) + ';';
  }
  return sql;
}

std::optional<std::string> listen_policy::next_unlistens() {
  std::string sql;
  for (std::size_t n = 0; n < limits_.batch && !to_unlisten_.empty(); ++n) {
    sql += "unlisten " + quote_identifier(to_unlisten_.front()) + ';';
    to_unlisten_.pop_front();
  }
  return sql.empty() ? std::nullopt : std::optional{std::move(sql)};
}

listen_policy::action listen_policy::next(steady::time_point now) {
  drop_expired(now);
  if (state_ == state::waiting) {
    if (now < retry_at_) return wait{retry_at_};
    state_ = state::opening;
    for (auto& [channel, e] : channels_) queue(channel, e);
    outage_ends_at_ = queued_;
    return open{};
  }
  // UNLISTENs first: a channel may have been dropped and asked for again since, and its LISTEN must come after.
  if (auto sql = next_unlistens()) return run{std::move(*sql)};
  if (auto sql = next_listens()) return run{std::move(*sql)};
  const auto ask_at = last_heard_ + limits_.idle;
  if (now >= ask_at) return run{std::string{embedded_sql::find("statements/ping.sql")}};
  return wait{lingering_.empty() ? ask_at : std::min(ask_at, lingering_.front().first)};
}

void listen_policy::opened(steady::time_point now) {
  state_ = state::connected;
  opened_at_ = last_heard_ = now;
}

void listen_policy::ran(steady::time_point now) {
  last_heard_ = now;
  for (const auto& channel : running_) {
    auto& e = channels_.find(channel)->second;  // an entry with a queued LISTEN is never erased
    e.queued = 0;
    e.generation = ++last_generation_;
    e.since = now;
  }
  listening_ += running_.size();
  settled_ += running_.size();
  running_.clear();
}

bool listen_policy::lost(steady::time_point now) {
  if (connected() && now - opened_at_ >= healthy) backoff_.succeeded();
  retry_at_ = now + backoff_.next();
  state_ = state::waiting;
  to_listen_.clear();
  to_unlisten_.clear();
  running_.clear();
  settled_ = queued_;
  listening_ = 0;
  std::erase_if(channels_, [](const auto& c) { return c.second.listeners == 0; });
  for (auto& [channel, e] : channels_) e.queued = e.generation = 0;
  return !std::exchange(outage_, true);
}

bool listen_policy::take_end_of_outage() {
  if (!outage_ || !connected() || settled_ < outage_ends_at_) return false;
  outage_ = false;
  return true;
}

std::optional<std::uint64_t> listen_policy::generation(std::string_view channel) const {
  const auto at = channels_.find(channel);
  if (at == channels_.end() || !at->second.generation) return std::nullopt;
  return at->second.generation;
}

}  // namespace postbus::postgres
