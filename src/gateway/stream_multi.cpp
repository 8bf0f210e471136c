// Many channels over one stream, which one position resumes. Where some of them are streams whose tables must be read first,
// the others' events wait for theirs: all go out in the order of their positions.
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "gateway/multi_session.hpp"

namespace postbus::gateway {
namespace {

bool is_notice(const bus::event& e) { return e.kind == bus::kind::gap || e.kind == bus::kind::reset; }

/** Bytes of one portion of all channels, and the least of one channel's share: many channels are not brought event by event. */
constexpr std::size_t all_at_once = 256 * 1024, share_at_once = 4 * 1024;

}  // namespace

stream_multi::stream_multi(loop& home, socket&& s, std::unique_ptr<identity> who, std::vector<listen_request> asked, form f,
                           std::string head)
    : multi_session{home, std::move(s), std::move(who)}, asked_{std::move(asked)}, form_{f}, head_{std::move(head)} {}

void stream_multi::begin() {
  // One position stands for all channels: each is brought from there, whatever is published while we go through them.
  given_ = std::holds_alternative<bus::from_now>(asked_.front().from) ? bus::start{home().shared().hub.head()} : asked_.front().from;
  for (auto& one : std::exchange(asked_, {})) {
    auto& s = make(std::ssize(lanes_), std::move(one));
    s.has_tables = false;  // we look after them, in one order
    lanes_.push_back({s.asked.channel, given_});
  }
  arm(home().limits().ping_every);
  replay_some();
}

bus::portion stream_multi::portion() const { return {.bytes = std::max(all_at_once / lanes_.size(), share_at_once)}; }

void stream_multi::on_sent() {
  if (room_)
    room_->ring();
  else if (replaying_ && !ending())
    replay_some();
}

void stream_multi::replay_some() {
  auto given = home().shared().hub.history(lanes_, portion());
  if (has_tables_ && std::ranges::any_of(lanes_, [&](const auto& l) { return may_be_kept(l.channel, l.from, given); })) {
    replaying_ = false;
    if (const auto* const after = std::get_if<bus::position>(&given_)) open(*after);
    room_ = std::make_shared<room_signal>(home().context().get_executor());
    return home().spawn("replay", read_tables(home(), handle(), room_));
  }
  replaying_ = !given.end;
  if (given.end) return join_all();
  given_ = given.next.at;
  for (auto& l : lanes_) {
    l.from.at = given.next.at;
    l.from.seq = given.next.seq;
  }
  std::vector<waiting> events;
  for (auto& e : given.events) events.push_back({std::move(e), 0});  // on one stream the subscriptions are not told apart
  give(given.opening(), std::move(events));
}

void stream_multi::join_all() {
  auto opening = home().shared().hub.head();
  for (std::size_t id = 0; id < lanes_.size(); ++id) {
    bus::position at;
    replay(*subscriptions().at(static_cast<std::int64_t>(id)), lanes_[id].from, at, {});
    opening = std::min(opening, at);
  }
  const auto* const after = std::get_if<bus::position>(&given_);
  open(after != nullptr && next_waiting() != nullptr ? *after : opening);
  sort_replay();
}

void stream_multi::give(const bus::position& opening, std::vector<waiting> events) {
  if (const auto* const after = std::get_if<bus::position>(&subscriptions().at(0)->asked.from); after != nullptr && after->from_notify())
    for (const auto& [id, s] : subscriptions()) {
      bus::replay own;
      for (const auto& w : events)
        if (w.event->channel == s->asked.channel) own.events.push_back(w.event);
      const auto count = own.events.size();
      add_missed_notifications(s->asked, own);
      if (own.events.size() > count) events.insert(events.begin(), {own.events.front(), 0});
      s->asked.from = bus::from_now{};  // it has been told
    }
  open(opening);
  queue_replay(std::move(events));
}

stream_multi::~stream_multi() {
  if (room_) room_->ring();
}

void stream_multi::open(const bus::position& at) {
  if (head_.empty()) return;
  sent_ = at;
  auto& bytes = out();
  bytes += std::exchange(head_, {});
  bytes += "Postbus-Position: ";
  append_text(bytes, at);
  bytes += "\r\n\r\n";
  if (form_ != form::lines) {
    bytes += "id: ";
    append_text(bytes, at);
    bytes += "\n\n";
  }
  home().flush_later(*this);
}

boost::asio::awaitable<void> stream_multi::read_tables(loop& home, std::shared_ptr<session*> weak, std::shared_ptr<room_signal> room) {
  const auto living = [&weak]() -> stream_multi* {
    auto* const self = static_cast<stream_multi*>(*weak);
    return self == nullptr || self->closed() || self->closing() || self->ending() ? nullptr : self;
  };
  auto* self = living();
  if (self == nullptr) co_return;
  const auto count = self->lanes_.size();
  std::vector<bool> ordinary(count);  // no streams
  for (;;) {
    std::vector<std::pair<std::size_t, streams::page>> pages;
    for (std::size_t id = 0; id < count; ++id) {
      if (ordinary[id]) continue;
      const std::string channel{self->lanes_[id].channel};
      auto page = co_await home.shared().behind.read_stream(channel, self->given_, SIZE_MAX);
      if (self = living(); self == nullptr) co_return;
      if (page) {
        pages.emplace_back(id, std::move(*page));
      } else if (page.error().code == errc::not_found) {
        ordinary[id] = true;
      } else {
        log::info("gateway", "a stream cannot be read: {}", page.error());
        co_return self->end(page.error().code);
      }
    }
    while (self->waiting_bytes() != 0) {
      co_await room->wait();
      if (self = living(); self == nullptr) co_return;
    }
    if (pages.empty()) {
      self->has_tables_ = false;
      self->room_.reset();
      co_return self->replay_some();
    }
    std::vector<bus::hub::lane> others;
    for (std::size_t id = 0; id < count; ++id)
      if (ordinary[id]) others.push_back(self->lanes_[id]);
    const auto rest = others.empty() ? bus::replay{} : home.shared().hub.history(others, self->portion());
    // As far as every page reaches, the events of all channels are known: up to there they go out in their order.
    const bool end = rest.end && std::ranges::all_of(pages, [](const auto& p) { return p.second.end; });
    std::optional<bus::position> upto;
    if (!rest.end) upto = rest.next.at;
    for (const auto& [id, page] : pages)
      if (end || !rest.end || !page.end) upto = upto ? std::min(*upto, page.upto) : page.upto;
    std::vector<waiting> ready;
    for (const auto& [id, page] : pages) {
      for (const auto* const e : page.events->events())
        if (e->at <= *upto) ready.push_back({{page.events, e}, static_cast<std::int64_t>(id)});
      self->lanes_[id].from = *upto;
    }
    for (const auto& e : rest.events) {
      if (e->at > *upto) break;
      ready.push_back({e, 0});
      for (std::size_t id = 0; id < count; ++id) {
        if (!ordinary[id]) continue;
        self->lanes_[id].from.at = e->at;
        self->lanes_[id].from.seq = e->seq;
      }
    }
    std::ranges::sort(ready, {}, [](const waiting& w) { return std::tuple{w.event->at, !is_notice(*w.event), w.id}; });
    self->given_ = *upto;
    self->give({home.shared().hub.head().epoch, 0, 0}, std::move(ready));
    if (!end || home.shared().hub.whole_since() > *upto) continue;
    while (self->waiting_bytes() != 0) {
      co_await room->wait();
      if (self = living(); self == nullptr) co_return;
    }
    if (home.shared().hub.whole_since() > *upto) continue;
    self->room_.reset();
    co_return self->replay_some();
  }
}

void stream_multi::on_timer() {
  if (closing()) return close_if_stalled();
  if (catches_up() && blocked() && !takes_some()) return end(errc::too_slow);  // takes nothing at all
  if (!flushed_since_timer_ && !blocked() && head_.empty() && form_ != form::lines) {
    out() += ":\n\n";
    home().flush_later(*this);
  }
  flushed_since_timer_ = false;
  arm(home().limits().ping_every);
}

void stream_multi::append_event(std::string& out, const bus::event_ref& e, const subscription&) {
  const bool notice = is_notice(*e);
  // A line cannot tell of a gap: the end of the response does.
  if (form_ == form::lines && notice) return end(errc::draining);
  const auto* const behind = notice ? next_waiting() : nullptr;
  if (behind != nullptr && behind->at <= e->at) {
    auto held_back = *e;
    held_back.at = sent_;
    return encode(out, form_, held_back);
  }
  sent_ = e->at;
  out += home().encoded().get(form_, e);
}

void stream_multi::append_ending(std::string& out, errc why) {
  open({home().shared().hub.head().epoch, 0, 0});  // where it ends before a table has been read
  if (form_ != form::lines) append_sse_ending(out, {why, std::string{traits(why).meaning}});
}

}  // namespace postbus::gateway
