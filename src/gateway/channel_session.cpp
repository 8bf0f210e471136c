#include "gateway/channel_session.hpp"

#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "gateway/problem.hpp"

namespace postbus::gateway {
namespace {

/** Readers this far behind are looked at when the loop as a whole keeps too much for readers that lag. */
constexpr std::size_t noticeable_lag = 1u << 20;
/** Bytes of a snapshot's rows that are made ready for the socket in one go. */
constexpr std::size_t rows_at_once = 256 * 1024;
constexpr int portions_a_turn = 4;

/** The line that tells an EventSource when to come back: jittered, so that a restart is not answered by all at once. */
void append_sse_retry(std::string& out) {
  thread_local std::minstd_rand random{std::random_device{}()};
  out += "retry: ";
  out += std::to_string(500 + random() % 2500);
  out += "\n\n";
}

}  // namespace

channel_session::channel_session(loop& home, socket&& s, std::unique_ptr<identity> who, listen_request asked, form f)
    : session{home, std::move(s), std::move(who)}, asked_{std::move(asked)}, form_{f} {}

channel_session::~channel_session() {
  if (attached()) {
    home().shard().unsubscribe(*this);
    metrics::adjust(metrics::gauge::subscriptions, -1);
  }
  if (room_) room_->ring();
}

void channel_session::begin() {
  if (!asked_.rows) {
    if (!replay(asked_.from)) read_tables(asked_.from);
    return;
  }
  has_tables_ = false;
  rows_ = std::make_unique<snapshot_rows>(std::move(asked_.rows), flush_from_any_thread());
  opened_ = true;
  append_opening(out(), {});
  home().flush_later(*this);
}

bool channel_session::replay(const bus::progress& from) {
  auto given =
      home().shard().subscribe(*this, static_cast<bus::wire_form>(form_), asked_.topic(), from, asked_.channel, {.bytes = replay_at_once});
  if (has_tables_ && may_be_kept(asked_.channel, from, given)) {
    if (attached()) home().shard().unsubscribe(*this);
    return false;
  }
  if (given.end)
    metrics::adjust(metrics::gauge::subscriptions, 1);
  else
    replaying_ = given.next;
  complete_replay(asked_, from, given);
  const bool whole = !asked_.snapshot || (rows_ ? rows_->join(given) : given.complete);
  if (!std::exchange(opened_, true)) append_opening(out(), given.opening());
  if (!whole) {
    begin_over(errc::start_over);
    return true;
  }
  if (rows_ && rows_->joined()) rows_.reset();
  for (const auto& e : given.events) encode(out(), form_, *e);
  metrics::add(metrics::counter::events_out, given.events.size());
  home().flush_later(*this);
  if (given.end && asked_.view && asked_.view->ended()) on_ended();
  return true;
}

void channel_session::on_ended() { end(asked_.view->why().code); }

/** Queues more of what it is given before all else; false when there is nothing now. */
bool channel_session::give_more() {
  if (!replaying_) return give_rows();
  const auto from = *std::exchange(replaying_, std::nullopt);
  if (!replay(from)) read_tables(from);
  return true;
}

/** Queues rows; false when there are none now. */
bool channel_session::give_rows() {
  auto& bytes = out();
  const auto put = [&](const bus::event& e) { encode(bytes, form_, e); };
  while (bytes.size() < rows_at_once) {
    switch (rows_->next(put)) {
      case snapshot_rows::outcome::row: break;
      case snapshot_rows::outcome::waiting: return !bytes.empty();
      case snapshot_rows::outcome::complete:
        asked_.from = rows_->from();
        replay(asked_.from);
        return true;
      case snapshot_rows::outcome::failed:
        log::info("gateway", "a snapshot for a reader of {} ended early: {}", asked_.channel, rows_->why());
        begin_over(rows_->why().code);
        return true;
    }
  }
  return true;
}

/** `why`: where it says that coming back is useless, the client is told so. */
void channel_session::begin_over(errc why) {
  encode(out(), form_, *start_over(asked_.channel, home().shared().hub.head()));
  end(traits(why).retry ? errc::start_over : why);
}

void channel_session::read_tables(const bus::progress& from) {
  room_ = std::make_shared<room_signal>(home().context().get_executor());
  const auto living = [weak = handle()]() -> channel_session* {
    auto* const self = static_cast<channel_session*>(*weak);
    return self == nullptr || self->closed() || self->closing() || self->ending() ? nullptr : self;
  };
  const auto open = [](channel_session& self) {
    // Until something has been sent the client would resume from where it was.
    const auto* const after = std::get_if<bus::position>(&self.asked_.from);
    if (!std::exchange(self.opened_, true))
      self.append_opening(self.out(), after ? *after : bus::position{self.home().shared().hub.head().epoch, 0, 0});
  };
  home().spawn("replay", catch_up(home(), asked_.channel, start_of(from),
                                  {.alive = [living] { return living() != nullptr; },
                                   .has_room = [living] { return living()->out_bytes() == 0; },
                                   .room = room_,
                                   .take =
                                       [living, open](const streams::page& page) {
                                         auto& self = *living();
                                         open(self);
                                         for (const auto* const e : page.events->events()) encode(self.out(), self.form_, *e);
                                         metrics::add(metrics::counter::events_out, page.events->events().size());
                                         self.home().flush_later(self);
                                       },
                                   .join =
                                       [living](const bus::position& at) {
                                         auto& self = *living();
                                         if (!self.replay(at)) return false;
                                         self.room_.reset();
                                         return true;
                                       },
                                   .not_kept =
                                       [living, from] {
                                         auto& self = *living();
                                         self.room_.reset();
                                         self.has_tables_ = false;
                                         self.replay(from);
                                       },
                                   .failed =
                                       [living, open](const error& why) {
                                         auto& self = *living();
                                         log::info("gateway", "a stream cannot be read: {}", why);
                                         open(self);
                                         self.end(why.code);
                                       }}));
}

void channel_session::flush() {
  if (closed()) return;
  if (catches_up() && !blocked()) flushed_since_timer_ = true;
  if (!blocked() && write_out()) {
    if (closing()) return close_when_peer_does();
    for (int i = 0; (rows_ || replaying_) && !ending_ && !blocked() && !closed(); ++i) {
      if (i == portions_a_turn) return flush_from_any_thread()();  // the others' turn
      if (!give_more()) break;
      if (!write_out()) break;
    }
    if (room_) return room_->ring();
    while (!blocked() && !closed()) {
      const auto waiting = pending();
      if (waiting.empty()) break;
      advance(write(waiting));
      flushed_since_timer_ = true;
    }
  }
  if (!blocked() || ending() || catches_up()) return;  // rows wait in their spool and events in history, however long
  const auto behind = lag() + out_bytes();
  if (behind > home().limits().max_lag || (behind > noticeable_lag && home().shard().retained() > home().limits().max_retained))
    end(errc::too_slow);
}

void channel_session::on_drained() {
  if (attached()) home().shard().caught_up(*this);
}

void channel_session::end(errc why) {
  if (ending_ || closing()) return;
  ending_ = why;
  home().call_after_flush(*this);
}

void channel_session::after_flush() {
  if (!ending_ || closing()) return;
  if (*ending_ == errc::too_slow) {
    metrics::add(metrics::counter::slow_readers);
    log::info("gateway", "a reader of {} is {} bytes behind and is cut off with 4001", asked_.channel, lag());
  }
  const bool view_ended = asked_.view && asked_.view->ended();
  if (view_ended) {  // all that came before the end is given
    out() += pending();
    advance(pending().size());
  }
  append_between_events({});
  append_ending(out(), *ending_,
                view_ended && *ending_ == asked_.view->why().code ? std::string_view{asked_.view->why().text} : traits(*ending_).meaning);
  rows_.reset();
  replaying_.reset();
  if (attached()) {
    home().shard().unsubscribe(*this);
    metrics::adjust(metrics::gauge::subscriptions, -1);
  }
  close_after_out();
}

void channel_session::append_between_events(std::string_view bytes) {
  if (!has_out()) {
    const auto rest = bytes_to_boundary();
    out() += pending().substr(0, rest);
    advance(rest);
  }
  out() += bytes;
  home().flush_later(*this);
}

void channel_session::recheck(const token* mine) {
  if (who() == nullptr) return;
  if (mine == nullptr)
    end(errc::unauthorised);
  else if (!mine->may(right::listen, asked_.channel))
    end(errc::forbidden);
}

std::chrono::milliseconds channel_session::ping_every() const { return const_cast<channel_session*>(this)->home().limits().ping_every; }

// --- WebSocket

void websocket_channel::append_ending(std::string& out, errc why, std::string_view text) {
  websocket::append_close(out, static_cast<std::uint16_t>(traits(why).close_code), text);
}

void websocket_channel::on_bytes(std::span<char> bytes) {
  if (closing()) return;
  heard_ = true;
  for (;;) {
    const auto item = intake_.next(bytes);
    using what = websocket::item::what;
    std::string frame;
    switch (item.is) {
      case what::need_more: return;
      case what::pong: break;
      case what::ping:
        if (ending() || out_bytes() > 64 * 1024) break;  // who does not read its pongs gets no more
        websocket::append_frame(frame, websocket::opcode::pong, item.payload);
        append_between_events(frame);
        break;
      case what::text:
      case what::binary:
        // This connection only listens.
        if (!ending()) end(errc::invalid_argument);
        return;
      case what::close:
        if (ending()) return close();
        websocket::append_close(frame, item.code == websocket::close_code::none ? websocket::close_code::normal : item.code, {});
        append_between_events(frame);
        close_after_out();
        return;
      case what::broken: return break_off(item.code, item.payload);
    }
  }
}

void websocket_channel::break_off(std::uint16_t code, std::string_view why) {
  if (ending()) return close();
  std::string frame;
  websocket::append_close(frame, code, why);
  append_between_events(frame);
  close_after_out();
}

void websocket_channel::on_timer() {
  if (closing()) return close_if_stalled();
  if (const auto why = intake_.overdue(); !why.empty()) return break_off(websocket::close_code::try_again, why);
  if (ending() || (!heard_ && !takes_some())) return close();
  heard_ = flushed_since_timer_ = false;
  std::string ping;
  websocket::append_frame(ping, websocket::opcode::ping, {});
  if (!blocked()) append_between_events(ping);
  arm(ping_every());
}

// --- Server-sent events

sse_channel::sse_channel(loop& home, socket&& s, std::unique_ptr<identity> who, listen_request asked, form f, std::string head)
    : channel_session{home, std::move(s), std::move(who), std::move(asked), f}, head_{std::move(head)} {}

void append_sse_ending(std::string& out, const error& why) {
  const bool retry = traits(why.code).retry;
  if (!retry || why.code == errc::table_changed) {
    out += "event: problem\ndata: ";
    append_problem(out, why);
    out += "\n\n";
  }
  if (retry) append_sse_retry(out);
}

std::string stream_head(std::string_view content_type, std::string_view extra) {
  std::string head = "HTTP/1.1 200 OK\r\nContent-Type: ";
  head += content_type;
  head += "\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n";
  head += extra;
  return head;
}

void sse_channel::append_opening(std::string& out, const bus::position& at) {
  out += std::exchange(head_, {});
  arm(ping_every());
  if (at == bus::position{}) {
    out += "\r\n";
    return;
  }
  out += "Postbus-Position: ";
  append_text(out, at);
  // A block of nothing but an id sets the EventSource's last event id: it can resume before the first event has come.
  out += "\r\n\r\nid: ";
  append_text(out, at);
  out += "\n\n";
}

void sse_channel::append_ending(std::string& out, errc why, std::string_view text) { append_sse_ending(out, {why, std::string{text}}); }

void sse_channel::on_timer() {
  if (closing()) return close_if_stalled();
  // A comment keeps proxies from closing a quiet stream and finds clients that have vanished.
  if (catches_up() && blocked() && !takes_some()) return end(errc::too_slow);  // takes nothing at all
  if (!flushed_since_timer_ && !blocked()) append_between_events(":\n\n");
  flushed_since_timer_ = false;
  arm(ping_every());
}

}  // namespace postbus::gateway
