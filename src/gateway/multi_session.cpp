#include "gateway/multi_session.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"

namespace postbus::gateway {
namespace {

constexpr std::size_t chunk_bytes = 256 * 1024;
constexpr int row_writes_a_turn = 4;
/** What an event costs on the wire beside its payload, about. */
constexpr std::size_t event_overhead = 160;
const error history_gone{errc::start_over, "the events behind the snapshot are no longer in memory: start over"};

}  // namespace

multi_session::~multi_session() {
  for (auto& [id, s] : subscriptions_) leave(*s);
}

void multi_session::leave(subscription& s) {
  if (s.room) s.room->ring();
  if (!s.attached) return;
  home().shard().unsubscribe(s, s.asked.topic());
  s.attached = false;
  metrics::adjust(metrics::gauge::subscriptions, -1);
}

multi_session::subscription& multi_session::make(std::int64_t id, listen_request asked) {
  auto made = std::make_unique<subscription>(*this, id, std::move(asked));
  auto& s = *made;
  subscriptions_.emplace(id, std::move(made));
  return s;
}

void multi_session::subscribe(std::int64_t id, listen_request asked, std::function<void(result<bus::position>)> fixed) {
  auto& s = make(id, std::move(asked));
  bus::position at;
  if (!join(s, s.asked.from, true, at)) return read_tables(s, std::move(fixed));
  fixed(at);
  if (s.over) begin_over(s, history_gone);
}

void multi_session::begin_rows(std::int64_t id, listen_request asked) {
  auto rows = std::make_unique<snapshot_rows>(std::move(asked.rows), flush_from_any_thread());
  make(id, std::move(asked)).rows = std::move(rows);
  giving_rows_.push_back(id);
  home().flush_later(*this);
}

bool multi_session::join(subscription& s, const bus::start& from, bool tables_first, bus::position& at) {
  auto given = home().shard().subscribe(s, s.asked.topic(), from, s.asked.channel);
  if (tables_first && may_be_kept(s.asked.channel, from, given)) {
    home().shard().unsubscribe(s, s.asked.topic());
    return false;
  }
  s.attached = true;
  metrics::adjust(metrics::gauge::subscriptions, 1);
  complete_replay(s.asked, given);
  // A replay is bounded by the history, not by the lag a live reader may have.
  const bool whole = !s.asked.snapshot || (s.rows ? s.rows->join(given) : given.complete);
  s.rows.reset();
  at = given.opening();
  if (!whole) {
    s.over = true;
    return true;
  }
  for (auto& e : given.events) pending_.push_back({std::move(e), s.id});
  metrics::add(metrics::counter::events_out, given.events.size());
  if (s.asked.view && s.asked.view->ended()) {  // meanwhile, and its last event was for those who were there
    auto alone = std::make_shared<bus::batch>();
    pending_.push_back({{alone, &alone->add_owned(s.asked.topic(), bus::kind::ended, bus::payload_form::json, {}, given.at, {})}, s.id});
  }
  home().flush_later(*this);
  return true;
}

void multi_session::read_tables(subscription& s, std::function<void(result<bus::position>)> fixed) {
  s.room = std::make_shared<room_signal>(home().context().get_executor());
  // The subscription may go, and its id be used again: the signal tells them apart.
  const auto living = [weak = handle(), id = s.id, room = s.room]() -> subscription* {
    auto* const self = static_cast<multi_session*>(*weak);
    if (self == nullptr || self->closed() || self->closing() || self->ending()) return nullptr;
    const auto found = self->subscriptions_.find(id);
    return found != self->subscriptions_.end() && found->second->room == room ? found->second.get() : nullptr;
  };
  const auto told = std::make_shared<bool>(false);
  const auto fix = [told, fixed = std::move(fixed)](result<bus::position> at) {
    if (!std::exchange(*told, true)) fixed(std::move(at));
  };
  const auto* const after = std::get_if<bus::position>(&s.asked.from);
  const auto start = after ? *after : bus::position{home().shared().hub.head().epoch, 0, 0};
  home().spawn("replay", catch_up(home(), s.asked.channel, s.asked.from,
                                  {.alive = [living] { return living() != nullptr; },
                                   .has_room =
                                       [living] {
                                         auto& owner = living()->owner;
                                         // While another subscription's rows fill the socket, a page at a time stands between them.
                                         return owner.pending_.empty() && (owner.out_bytes() == 0 || !owner.giving_rows_.empty());
                                       },
                                   .room = s.room,
                                   .take =
                                       [living, fix, start](const streams::page& page) {
                                         auto& self = *living();
                                         fix(start);
                                         for (const auto* const e : page.events->events())
                                           self.owner.pending_.push_back({{page.events, e}, self.id});
                                         metrics::add(metrics::counter::events_out, page.events->events().size());
                                         self.owner.home().flush_later(self.owner);
                                       },
                                   .join =
                                       [living](const bus::position& at) {
                                         auto& self = *living();
                                         bus::position joined;
                                         if (!self.owner.join(self, at, true, joined)) return false;
                                         self.room.reset();
                                         return true;
                                       },
                                   .not_kept =
                                       [living, fix] {
                                         auto& self = *living();
                                         self.room.reset();
                                         bus::position joined;
                                         self.owner.join(self, self.asked.from, false, joined);
                                         fix(joined);
                                       },
                                   .failed =
                                       [living, fix, told](const error& why) {
                                         auto& self = *living();
                                         log::info("gateway", "a stream cannot be read: {}", why);
                                         if (*told) return self.owner.end(why.code);
                                         const auto id = self.id;
                                         auto& owner = self.owner;
                                         owner.unsubscribe(id);
                                         fix(why);
                                       }}));
}

/** Appends rows, and what comes behind them. False when there is nothing to be had now. */
bool multi_session::give_rows(std::string& bytes) {
  bool any = false;
  for (auto turns = giving_rows_.size(); turns > 0 && bytes.size() < chunk_bytes; --turns) {
    const auto id = giving_rows_.front();
    giving_rows_.pop_front();
    const auto found = subscriptions_.find(id);
    if (found == subscriptions_.end() || !found->second->rows) continue;
    auto& s = *found->second;
    const auto put = [&](const bus::event& e) { append_row(bytes, e, s); };
    using enum snapshot_rows::outcome;
    auto last = row;
    while (last == row && bytes.size() < chunk_bytes) {
      last = s.rows->next(put);
      any = any || last != waiting;
    }
    if (last == complete) {
      s.asked.from = s.rows->from();
      bus::position at;
      join(s, s.asked.from, false, at);
      if (s.over) begin_over(s, history_gone);
    } else if (last == failed) {
      begin_over(s, error{s.rows->why()});
    } else {
      giving_rows_.push_back(id);
    }
  }
  return any;
}

void multi_session::begin_over(subscription& s, const error& why) {
  log::info("gateway", "a snapshot of {} ended early: {}", s.asked.channel, why);
  append_event(out(), start_over(s.asked.channel, home().shared().hub.head()), s);
  append_refusal(out(), s, why);
  ended_.push_back(s.id);
  home().call_after_flush(*this);
  home().flush_later(*this);
}

void multi_session::sort_replay() {
  std::ranges::sort(pending_, {}, [](const waiting& w) { return w.event->seq; });
}

void multi_session::queue_replay(std::vector<waiting> events) {
  metrics::add(metrics::counter::events_out, events.size());
  std::ranges::move(events, std::back_inserter(pending_));
  home().flush_later(*this);
}

void multi_session::leave_all() {
  for (auto& [id, s] : subscriptions_) leave(*s);
  pending_.clear();
}

void multi_session::unsubscribe(std::int64_t id) {
  const auto found = subscriptions_.find(id);
  if (found == subscriptions_.end()) return;
  leave(*found->second);
  std::erase_if(pending_, [&](const waiting& w) { return w.id == id; });
  if (pending_.empty()) pending_bytes_ = 0;
  subscriptions_.erase(found);
}

void multi_session::queue(const bus::event_ref& e, const subscription& from) {
  if (ending_ || closing()) return;
  const auto bytes = e->payload.size() + event_overhead;
  if (blocked() && pending_bytes_ > home().limits().max_lag) return end(errc::too_slow);
  pending_.push_back({e, from.id});
  pending_bytes_ += bytes;
  home().flush_later(*this);
}

void multi_session::flush() {
  int rounds = 0;
  while (!blocked() && !closed()) {
    if (!write_out()) return;
    if (closing()) return close_when_peer_does();
    if (pending_.empty()) {
      pending_bytes_ = 0;
      for (auto& [id, s] : subscriptions_)
        if (s->room) s->room->ring();
      on_sent();
      if (giving_rows_.empty()) return;
    }
    auto& bytes = out();
    if (rounds++ == row_writes_a_turn && !giving_rows_.empty()) return flush_from_any_thread()();  // the others' turn
    while (!pending_.empty() && bytes.size() < chunk_bytes) {
      const auto next = std::move(pending_.front());
      pending_.pop_front();
      const auto cost = next.event->payload.size() + event_overhead;
      pending_bytes_ -= std::min(cost, pending_bytes_);
      const auto to = subscriptions_.find(next.id);
      if (to == subscriptions_.end()) continue;
      if (next.event->kind == bus::kind::ended) {
        append_view_ending(bytes, *to->second);
        ended_.push_back(next.id);
        home().call_after_flush(*this);
      } else {
        append_event(bytes, next.event, *to->second);
      }
    }
    // Behind what is live, which must not wait for a large table.
    if (bytes.size() < chunk_bytes && !give_rows(bytes) && bytes.empty() && pending_.empty()) {
      static_cast<void>(write_out());
      return;
    }
    flushed_since_timer_ = true;
  }
}

void multi_session::end(errc why) {
  if (ending_ || closing()) return;
  ending_ = why;
  home().call_after_flush(*this);
}

void multi_session::after_flush() {
  for (const auto id : std::exchange(ended_, {})) unsubscribe(id);
  if (!ending_ || closing()) return;
  if (*ending_ == errc::too_slow) {
    metrics::add(metrics::counter::slow_readers);
    log::info("gateway", "a reader of {} channels is {} bytes behind and is cut off with 4001", subscriptions_.size(), pending_bytes_);
  }
  pending_.clear();
  for (auto& [id, s] : subscriptions_) leave(*s);
  subscriptions_.clear();
  append_ending(out(), *ending_);
  close_after_out();
}

void multi_session::recheck(const token* mine) {
  if (who() == nullptr) return;
  if (mine == nullptr) return end(errc::unauthorised);
  for (const auto& [id, s] : subscriptions_)
    if (!mine->may(right::listen, s->asked.channel)) return end(errc::forbidden);
}

}  // namespace postbus::gateway
