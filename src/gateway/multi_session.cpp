#include "gateway/multi_session.hpp"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "base/log.hpp"
#include "base/metrics.hpp"
#include "bus/channel.hpp"
#include "gateway/authorise.hpp"

namespace postbus::gateway {
namespace {

constexpr std::size_t chunk_bytes = 256 * 1024;
constexpr int row_writes_a_turn = 4;
constexpr std::size_t most_queued_posts = 1024;
constexpr std::size_t most_queued_post_bytes = 32u << 20;
/** What an event costs on the wire beside its payload, about. */
constexpr std::size_t event_overhead = 160;
const error history_gone{errc::start_over, "the events behind the snapshot are no longer in memory: start over"};

}  // namespace

// --- Many channels

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
  at = given.at;
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
                                         log::info("gateway", "a stream cannot be read: {} ({})", why.text, why.detail);
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
  log::info("gateway", "a snapshot of {} ended early: {} ({})", s.asked.channel, why.text, why.detail);
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

// --- /v1/ws

websocket_multi::websocket_multi(loop& home, socket&& s, std::unique_ptr<identity> who)
    : multi_session{home, std::move(s), std::move(who)},
      // A payload may grow sixfold as a JSON string (\u00XX), but not all of one does: twice its limit and the rest of the message.
      parser_{websocket::role::server, static_cast<std::uint32_t>(home.limits().max_message * 2 + 4096)} {}

void websocket_multi::begin() {
  arm(home().limits().ping_every);
  home().flush_later(*this);
}

void websocket_multi::on_timer() {
  if (closing()) return close_if_stalled();
  if (ending() || (!heard_ && !takes_rows())) return close();
  heard_ = flushed_since_timer_ = false;
  if (!blocked()) {
    websocket::append_frame(out(), websocket::opcode::ping, {});
    home().flush_later(*this);
  }
  arm(home().limits().ping_every);
}

void websocket_multi::on_bytes(std::span<char> bytes) {
  heard_ = true;
  while (!closed() && !closing()) {
    const auto item = parser_.next(bytes);
    using what = websocket::item::what;
    switch (item.is) {
      case what::need_more: return;
      case what::pong: break;
      case what::ping:
        if (ending() || out_bytes() > chunk_bytes) break;  // who does not read gets no more pongs
        websocket::append_frame(out(), websocket::opcode::pong, item.payload);
        home().flush_later(*this);
        break;
      case what::text:
        if (!ending() && !closing()) act(item.payload);
        break;
      case what::binary:
        if (!ending()) end(errc::invalid_argument);
        break;
      case what::close:
        if (ending()) return close();
        websocket::append_close(out(), item.code == websocket::close_code::none ? websocket::close_code::normal : item.code, {});
        close_after_out();
        return;
      case what::broken:
        if (ending()) return close();
        websocket::append_close(out(), item.code, item.payload);
        close_after_out();
        return;
    }
  }
}

void websocket_multi::append_event(std::string& out, const bus::event_ref& e, const subscription& from) {
  const auto json = home().encoded().get(form::json, e);
  websocket::append_frame_header(out, websocket::opcode::text, ws_event_bytes(from.id, json));
  append_ws_event(out, from.id, json);
}

void websocket_multi::append_row(std::string& out, const bus::event& e, const subscription& from) {
  row_.clear();
  encode(row_, form::json, e);
  websocket::append_frame_header(out, websocket::opcode::text, ws_event_bytes(from.id, row_));
  append_ws_event(out, from.id, row_);
}

void websocket_multi::append_refusal(std::string& out, const subscription& from, const error& why) {
  std::string reply;
  append_ws_error(reply, from.id, {traits(why.code).retry ? errc::start_over : why.code, why.text, why.detail});
  websocket::append_frame(out, websocket::opcode::text, reply);
}

void websocket_multi::append_ending(std::string& out, errc why) {
  const auto& t = traits(why);
  websocket::append_close(out, static_cast<std::uint16_t>(t.close_code), t.meaning);
}

void websocket_multi::append_view_ending(std::string& out, const subscription& from) {
  std::string reply;
  append_ws_error(reply, from.id, from.asked.view->why());
  websocket::append_frame(out, websocket::opcode::text, reply);
}

void websocket_multi::refuse(std::int64_t id, const error& why) {
  std::string reply;
  append_ws_error(reply, id, why);
  websocket::append_frame(out(), websocket::opcode::text, reply);
  home().flush_later(*this);
}

void websocket_multi::act(std::string_view text) {
  if (out_bytes() > home().limits().max_lag) return end(errc::too_slow);  // asks, and does not read the answers
  auto parsed = parse_ws_message(text);
  if (auto* const refused = std::get_if<ws_refusal>(&parsed)) {
    if (refused->id) return refuse(*refused->id, refused->why);
    return end(errc::invalid_argument);
  }
  auto& request = std::get<ws_request>(parsed);
  std::visit([&](auto& op) { act(request.id, std::move(op)); }, request.op);
}

void websocket_multi::act(std::int64_t id, ws_subscribe&& wanted) {
  if (has(id) || opening_.contains(id)) return refuse(id, {errc::conflict, "a subscription with this id exists: choose another id"});
  if (subscribed() + opening_.size() >= home().limits().max_subscriptions)
    return refuse(id, {errc::too_many, "this connection has as many subscriptions as one may have: open another connection"});
  if (auto may = authorise(home(), who(), right::listen, wanted.channel); !may) return refuse(id, may.error());
  if (auto fits = check_snapshot(wanted.channel, wanted.after, wanted.snapshot); !fits) return refuse(id, fits.error());
  if (!wanted.consumer.empty())
    if (auto fits = check_consumer(wanted.channel, wanted.consumer); !fits) return refuse(id, fits.error());
  opening_.emplace(id, false);
  listen_request asked{.channel = std::move(wanted.channel),
                       .from = wanted.after,
                       .snapshot = wanted.snapshot,
                       .filter = std::move(wanted.filter),
                       .consumer = std::move(wanted.consumer)};
  home().listening().prepare(std::move(asked), [weak = handle(), id](result<listen_request> ready) {
    auto* const self = static_cast<websocket_multi*>(*weak);
    if (self == nullptr || self->closed() || self->ending()) return;
    const bool dropped = self->opening_.at(id);
    self->opening_.erase(id);
    if (dropped) return self->refuse(id, {errc::conflict, "unsubscribed before it was confirmed"});
    if (!ready) return self->refuse(id, ready.error());
    if (ready->rows) {
      std::string reply;
      append_ws_ok(reply, id);
      websocket::append_frame(self->out(), websocket::opcode::text, reply);
      return self->begin_rows(id, std::move(*ready));
    }
    // What is told later is told only while the subscription, and so the session, is there.
    self->subscribe(id, std::move(*ready), [self, id](result<bus::position> at) { self->confirm(id, at); });
  });
}

void websocket_multi::confirm(std::int64_t id, const result<bus::position>& at) {
  if (!at) return refuse(id, at.error());
  // The reply stands in `out`, which goes before whatever is queued.
  std::string reply;
  append_ws_ok(reply, id, *at);
  websocket::append_frame(out(), websocket::opcode::text, reply);
}

void websocket_multi::act(std::int64_t id, ws_ack&& wanted) {
  if (auto may = authorise(home(), who(), right::listen, wanted.channel); !may) return refuse(id, may.error());
  home().spawn("ack", acknowledge(home(), handle(), id, std::move(wanted)));
}

boost::asio::awaitable<void> websocket_multi::acknowledge(loop& home, std::shared_ptr<session*> weak, std::int64_t id, ws_ack wanted) {
  const auto done = co_await home.shared().behind.ack(std::move(wanted.channel), std::move(wanted.consumer), std::move(wanted.position));
  auto* const self = static_cast<websocket_multi*>(*weak);
  if (self == nullptr || self->closed() || self->closing()) co_return;
  if (!done) co_return self->refuse(id, done.error());
  std::string reply;
  append_ws_ok(reply, id);
  websocket::append_frame(self->out(), websocket::opcode::text, reply);
  home.flush_later(*self);
}

void websocket_multi::act(std::int64_t id, const ws_unsubscribe& wanted) {
  if (const auto found = opening_.find(wanted.sub); found != opening_.end())
    found->second = true;
  else if (has(wanted.sub))
    unsubscribe(wanted.sub);
  else
    return refuse(id, {errc::not_found, "there is no subscription with this id"});
  std::string reply;
  append_ws_ok(reply, id);
  websocket::append_frame(out(), websocket::opcode::text, reply);
  home().flush_later(*this);
}

void websocket_multi::act(std::int64_t id, ws_post&& wanted) {
  if (auto may = authorise(home(), who(), right::post, wanted.channel); !may) return refuse(id, may.error());
  if (wanted.payload.size() > home().limits().max_message)
    return refuse(id, {errc::too_large, "the payload is larger than this gateway takes (--max-message)"});
  posts_bytes_ += wanted.payload.size();
  posts_.push_back({id, std::move(wanted)});
  if (posts_.size() >= most_queued_posts || posts_bytes_ >= most_queued_post_bytes) pause_reading();
  if (!posting_) {
    posting_ = true;
    home().spawn("post", post_queued(home(), handle()));
  }
}

boost::asio::awaitable<void> websocket_multi::post_queued(loop& home, std::shared_ptr<session*> weak) {
  const auto living = [&weak] { return static_cast<websocket_multi*>(*weak); };
  while (auto* const self = living()) {
    if (self->posts_.empty()) {
      self->posting_ = false;
      break;
    }
    auto next = std::move(self->posts_.front());
    self->posts_.pop_front();
    self->posts_bytes_ -= next.message.payload.size();
    const auto posted =
        co_await home.shared().behind.post(std::move(next.message.channel), next.message.form, std::move(next.message.payload));
    if (auto* const still = living(); still != nullptr && !still->closed() && !still->closing()) still->answer_post(next.id, posted);
  }
}

void websocket_multi::answer_post(std::int64_t id, const result<bus::position>& posted) {
  if (posts_.size() < most_queued_posts / 2 && posts_bytes_ < most_queued_post_bytes / 2) resume_reading();
  if (!posted) return refuse(id, posted.error());
  std::string reply;
  append_ws_ok(reply, id, *posted);
  websocket::append_frame(out(), websocket::opcode::text, reply);
  home().flush_later(*this);
}

}  // namespace postbus::gateway
