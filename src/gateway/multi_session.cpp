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
constexpr int portions_a_turn = 4;
std::size_t cost(const bus::event& e) { return e.payload.size() + bus::event_overhead; }
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
  if (!replay(s, s.asked.from, at)) return read_tables(s, s.asked.from, std::move(fixed));
  fixed(at);
  if (s.over) begin_over(s, history_gone);
}

void multi_session::begin_rows(std::int64_t id, listen_request asked) {
  auto rows = std::make_unique<snapshot_rows>(std::move(asked.rows), flush_from_any_thread());
  auto& s = make(id, std::move(asked));
  s.rows = std::move(rows);
  s.has_tables = false;
  catching_up_.push_back(id);
  home().flush_later(*this);
}

bool multi_session::replay(subscription& s, const bus::progress& from, bus::position& at, bus::portion most) {
  auto given = home().shard().subscribe(s, s.asked.topic(), from, s.asked.channel, most);
  if (s.has_tables && may_be_kept(s.asked.channel, from, given)) {
    if (given.end) home().shard().unsubscribe(s, s.asked.topic());
    return false;
  }
  if (given.end) {
    s.attached = true;
    metrics::adjust(metrics::gauge::subscriptions, 1);
  } else {
    s.replaying = given.next;
    catching_up_.push_back(s.id);
  }
  complete_replay(s.asked, from, given);
  const bool whole = !s.asked.snapshot || (s.rows ? s.rows->join(given) : given.complete);
  at = given.opening();
  if (!whole) {
    s.over = true;
    return true;
  }
  if (s.rows && s.rows->joined()) s.rows.reset();
  metrics::add(metrics::counter::events_out, given.events.size());
  for (auto& e : given.events) push(std::move(e), s.id);
  if (given.end && s.asked.view && s.asked.view->ended()) {  // meanwhile, and its last event was for those who were there
    auto alone = std::make_shared<bus::batch>();
    push({alone, &alone->add_owned(s.asked.topic(), bus::kind::ended, bus::payload_form::json, {}, given.at, {})}, s.id);
  }
  home().flush_later(*this);
  return true;
}

void multi_session::read_tables(subscription& s, const bus::progress& from, std::function<void(result<bus::position>)> fixed) {
  s.room = std::make_shared<room_signal>(home().context().get_executor());
  // The subscription may go, and its id be used again: the signal tells them apart.
  const auto living = [weak = handle(), id = s.id, room = s.room]() -> subscription* {
    auto* const self = static_cast<multi_session*>(*weak);
    if (self == nullptr || self->closed() || self->closing() || self->ending()) return nullptr;
    const auto found = self->subscriptions_.find(id);
    return found != self->subscriptions_.end() && found->second->room == room ? found->second.get() : nullptr;
  };
  const auto told = std::make_shared<bool>(!fixed);
  const auto fix = [told, fixed = std::move(fixed)](result<bus::position> at) {
    if (!std::exchange(*told, true)) fixed(std::move(at));
  };
  const auto* const after = std::get_if<bus::position>(&s.asked.from);
  const auto start = after ? *after : bus::position{home().shared().hub.head().epoch, 0, 0};
  home().spawn("replay", catch_up(home(), s.asked.channel, start_of(from),
                                  {.alive = [living] { return living() != nullptr; },
                                   .has_room =
                                       [living] {
                                         auto& owner = living()->owner;
                                         // While another subscription's rows or history fill the socket, a page at a time
                                         // stands between them.
                                         return owner.pending_.empty() && (owner.out_bytes() == 0 || !owner.catching_up_.empty());
                                       },
                                   .room = s.room,
                                   .take =
                                       [living, fix, start](const streams::page& page) {
                                         auto& self = *living();
                                         fix(start);
                                         for (const auto* const e : page.events->events()) self.owner.push({page.events, e}, self.id);
                                         metrics::add(metrics::counter::events_out, page.events->events().size());
                                         self.owner.home().flush_later(self.owner);
                                       },
                                   .join =
                                       [living](const bus::position& at) {
                                         auto& self = *living();
                                         bus::position joined;
                                         if (!self.owner.replay(self, at, joined)) return false;
                                         self.room.reset();
                                         return true;
                                       },
                                   .not_kept =
                                       [living, fix, from] {
                                         auto& self = *living();
                                         self.room.reset();
                                         self.has_tables = false;
                                         bus::position joined;
                                         self.owner.replay(self, from, joined);
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

/** Queues a portion for each subscription that catches up, or appends its rows. False when there is nothing to be had now. */
bool multi_session::give_more(std::string& bytes) {
  bool any = false;
  for (auto turns = catching_up_.size(); turns > 0 && bytes.size() + pending_bytes_ < chunk_bytes; --turns) {
    const auto found = subscriptions_.find(catching_up_.front());
    catching_up_.pop_front();
    if (found == subscriptions_.end() || found->second->over) continue;
    auto& s = *found->second;
    if (!s.replaying) {
      if (s.rows) any = give_rows(s, bytes) || any;
      continue;
    }
    any = true;
    const auto from = *std::exchange(s.replaying, std::nullopt);
    bus::position at;
    if (!replay(s, from, at))
      read_tables(s, from, {});
    else if (s.over)
      begin_over(s, history_gone);
  }
  return any;
}

bool multi_session::give_rows(subscription& s, std::string& bytes) {
  const auto put = [&](const bus::event& e) { append_row(bytes, e, s); };
  using enum snapshot_rows::outcome;
  bool any = false;
  auto last = row;
  while (last == row && bytes.size() < chunk_bytes) {
    last = s.rows->next(put);
    any = any || last != waiting;
  }
  if (last == complete) {
    s.asked.from = s.rows->from();
    bus::position at;
    replay(s, s.asked.from, at);
    if (s.over) begin_over(s, history_gone);
  } else if (last == failed) {
    begin_over(s, error{s.rows->why()});
  } else {
    catching_up_.push_back(s.id);
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

void multi_session::push(bus::event_ref e, std::int64_t id) {
  pending_bytes_ += cost(*e);
  pending_.push_back({std::move(e), id});
}

void multi_session::queue_replay(std::vector<waiting> events) {
  metrics::add(metrics::counter::events_out, events.size());
  for (auto& w : events) push(std::move(w.event), w.id);
  home().flush_later(*this);
}

void multi_session::unsubscribe(std::int64_t id) {
  const auto found = subscriptions_.find(id);
  if (found == subscriptions_.end()) return;
  leave(*found->second);
  std::erase_if(pending_, [&](const waiting& w) {
    if (w.id == id) pending_bytes_ -= cost(*w.event);
    return w.id == id;
  });
  subscriptions_.erase(found);
}

void multi_session::queue(const bus::event_ref& e, const subscription& from) {
  if (ending_ || closing()) return;
  const auto next = pending_.empty() ? 0 : cost(*pending_.front().event);  // however large it is, who takes it is not behind
  if (blocked() && pending_bytes_ - next > home().limits().max_lag) return end(errc::too_slow);
  push(e, from.id);
  home().flush_later(*this);
}

void multi_session::flush() {
  if (catches_up() && !blocked()) flushed_since_timer_ = true;
  int rounds = 0;
  while (!blocked() && !closed()) {
    if (!write_out()) return;
    if (closing()) return close_when_peer_does();
    if (pending_.empty()) {
      for (auto& [id, s] : subscriptions_)
        if (s->room) s->room->ring();
      on_sent();
      if (pending_.empty() && !catches_up()) return;
    }
    auto& bytes = out();
    if (rounds++ == portions_a_turn && catches_up()) return flush_from_any_thread()();  // the others' turn
    while (!pending_.empty() && bytes.size() < chunk_bytes) {
      const auto next = std::move(pending_.front());
      pending_.pop_front();
      pending_bytes_ -= cost(*next.event);
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
    if (bytes.size() < chunk_bytes && !give_more(bytes) && bytes.empty() && pending_.empty()) {
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
  pending_bytes_ = 0;
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
