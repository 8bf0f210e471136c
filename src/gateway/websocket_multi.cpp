// Many channels over one WebSocket: each message of the client is one of subscribe, unsubscribe, post, ack, and is answered.
#include <utility>

#include "gateway/authorise.hpp"
#include "gateway/multi_session.hpp"

namespace postbus::gateway {
namespace {

constexpr std::size_t most_unsent_before_pong = 256 * 1024;
constexpr std::size_t most_queued_posts = 1024;
constexpr std::size_t most_queued_post_bytes = 32u << 20;
constexpr std::size_t most_acks = 256;

}  // namespace

websocket_multi::websocket_multi(loop& home, socket&& s, std::unique_ptr<identity> who)
    : multi_session{home, std::move(s), std::move(who)},
      // A payload may grow sixfold as a JSON string (\u00XX), but not all of one does: twice its limit and the rest of the message.
      intake_{home, static_cast<std::uint32_t>(home.limits().max_message * 2 + 4096)} {}

void websocket_multi::begin() {
  arm(home().limits().ping_every);
  home().flush_later(*this);
}

void websocket_multi::break_off(std::uint16_t code, std::string_view why) {
  if (ending()) return close();
  websocket::append_close(out(), code, why);
  close_after_out();
}

void websocket_multi::on_timer() {
  if (closing()) return close_if_stalled();
  if (const auto why = intake_.overdue(); !why.empty()) return break_off(websocket::close_code::try_again, why);
  if (ending() || (!heard_ && !takes_some())) return close();
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
    const auto item = intake_.next(bytes);
    using what = websocket::item::what;
    switch (item.is) {
      case what::need_more: return;
      case what::pong: break;
      case what::ping:
        if (ending() || out_bytes() > most_unsent_before_pong) break;  // who does not read gets no more pongs
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
      case what::broken: return break_off(item.code, item.payload);
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
  home().listening().prepare(std::move(asked), who(), [weak = handle(), id](result<listen_request> ready) {
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
  if (auto fits = check_consumer(wanted.channel, wanted.consumer); !fits) return refuse(id, fits.error());
  ++acks_;
  if (waits_for_database(1)) pause_reading();
  home().spawn("ack", acknowledge(home(), handle(), id, std::move(wanted)));
}

bool websocket_multi::waits_for_database(std::size_t part) const {
  return posts_.size() >= most_queued_posts / part || posts_bytes_ >= most_queued_post_bytes / part || acks_ >= most_acks / part;
}

boost::asio::awaitable<void> websocket_multi::acknowledge(loop& home, std::shared_ptr<session*> weak, std::int64_t id, ws_ack wanted) {
  const auto done = co_await home.shared().behind.ack(std::move(wanted.channel), std::move(wanted.consumer), std::move(wanted.position));
  auto* const self = static_cast<websocket_multi*>(*weak);
  if (self == nullptr || self->closed() || self->closing()) co_return;
  --self->acks_;
  if (!self->waits_for_database(2)) self->resume_reading();
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
  body_share held{home()};
  if (!held.hold(wanted.payload.size())) return refuse(id, {errc::unavailable, "too many large messages at once; try again in a moment"});
  posts_bytes_ += wanted.payload.size();
  posts_.push_back({id, std::move(wanted), std::move(held)});
  if (waits_for_database(1)) pause_reading();
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
  if (!waits_for_database(2)) resume_reading();
  if (!posted) return refuse(id, posted.error());
  std::string reply;
  append_ws_ok(reply, id, *posted);
  websocket::append_frame(out(), websocket::opcode::text, reply);
  home().flush_later(*this);
}

}  // namespace postbus::gateway
