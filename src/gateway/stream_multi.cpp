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

}  // namespace

stream_multi::stream_multi(loop& home, socket&& s, std::unique_ptr<identity> who, std::vector<listen_request> asked, form f,
                           std::string head)
    : multi_session{home, std::move(s), std::move(who)}, asked_{std::move(asked)}, form_{f}, head_{std::move(head)} {}

void stream_multi::begin() {
  // One position stands for all channels: each is subscribed from there, whatever is published while we go through them.
  auto asked = std::exchange(asked_, {});
  const auto head = home().shared().hub.head();
  const bus::start from = std::holds_alternative<bus::from_now>(asked.front().from) ? bus::start{head} : asked.front().from;
  std::int64_t id = 0;
  bool whole = true;
  bus::position opening = head;
  for (auto& one : asked) {
    bus::position at;
    whole &= join(make(id++, std::move(one)), from, true, at);
    opening = std::min(opening, at);
  }
  arm(home().limits().ping_every);
  const auto* const after = std::get_if<bus::position>(&from);
  if (whole) return open(after != nullptr && next_waiting() != nullptr ? *after : opening);
  leave_all();
  if (after != nullptr) open(*after);
  room_ = std::make_shared<room_signal>(home().context().get_executor());
  home().spawn("replay", read_tables(home(), handle(), room_, from));
}

stream_multi::~stream_multi() {
  if (room_) room_->ring();
}

void stream_multi::open(const bus::position& at) {
  if (head_.empty()) return;
  sort_replay();
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

boost::asio::awaitable<void> stream_multi::read_tables(loop& home, std::shared_ptr<session*> weak, std::shared_ptr<room_signal> room,
                                                       bus::start from) {
  const auto living = [&weak]() -> stream_multi* {
    auto* const self = static_cast<stream_multi*>(*weak);
    return self == nullptr || self->closed() || self->closing() || self->ending() ? nullptr : self;
  };
  auto* self = living();
  if (self == nullptr) co_return;
  std::vector<std::pair<std::int64_t, std::string>> channels;
  for (const auto& [id, s] : self->subscriptions()) channels.emplace_back(id, s->asked.channel);
  boost::unordered_flat_map<std::int64_t, bool> ordinary;  // no streams
  const auto asked = from;
  std::optional<bus::position> sent;
  for (;;) {
    std::vector<std::pair<std::int64_t, streams::page>> pages;
    for (const auto& [id, channel] : channels) {
      if (ordinary.contains(id)) continue;
      auto page = co_await home.shared().behind.read_stream(channel, from, SIZE_MAX);
      if (self = living(); self == nullptr) co_return;
      if (page) {
        pages.emplace_back(id, std::move(*page));
      } else if (page.error().code == errc::not_found) {
        ordinary.emplace(id, true);
      } else {
        log::info("gateway", "a stream cannot be read: {}", page.error());
        co_return self->end(page.error().code);
      }
    }
    while (self->waiting_bytes() != 0) {
      co_await room->wait();
      if (self = living(); self == nullptr) co_return;
    }
    if (pages.empty()) co_return self->join_all(from);
    // As far as every page reaches, the events of all channels are known: up to there they go out in their order.
    const bool end = std::ranges::all_of(pages, [](const auto& p) { return p.second.end; });
    std::optional<bus::position> upto;
    for (const auto& [id, page] : pages)
      if (end || !page.end) upto = upto ? std::min(*upto, page.upto) : page.upto;
    std::vector<waiting> ready;
    for (const auto& [id, page] : pages)
      for (const auto* const e : page.events->events())
        if (e->at <= *upto) ready.push_back({{page.events, e}, id});
    for (const auto& [id, channel] : channels)
      if (ordinary.contains(id))
        for (auto& e : home.shared().hub.history(channel, asked, SIZE_MAX).events)  // what was asked for decides about a gap
          if (e->at <= *upto && (!sent || e->at > *sent)) ready.push_back({std::move(e), id});
    std::ranges::sort(ready, {}, [](const waiting& w) { return std::tuple{w.event->at, !is_notice(*w.event), w.id}; });
    self->open({home.shared().hub.head().epoch, 0, 0});
    self->queue_replay(std::move(ready));
    from = *upto;
    sent = *upto;
    if (!end || home.shared().hub.whole_since() > *upto) continue;
    while (self->waiting_bytes() != 0) {
      co_await room->wait();
      if (self = living(); self == nullptr) co_return;
    }
    if (home.shared().hub.whole_since() > *upto) continue;
    co_return self->join_all(from);
  }
}

void stream_multi::join_all(const bus::start& from) {
  room_.reset();
  auto opening = home().shared().hub.head();
  for (const auto& [id, s] : subscriptions()) {
    bus::position at;
    join(*s, from, false, at);
    opening = std::min(opening, at);
  }
  open(opening);
  sort_replay();
}

void stream_multi::on_timer() {
  if (closing()) return close_if_stalled();
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
  if (form_ != form::lines && traits(why).retry) append_sse_retry(out);
}

}  // namespace postbus::gateway
