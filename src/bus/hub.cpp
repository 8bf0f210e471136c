#include "bus/hub.hpp"

#include <algorithm>
#include <random>

#include "base/prefetch.hpp"
#include "bus/hub_state.hpp"

namespace postbus::bus {

constexpr std::size_t max_gaps = 64;

hub::hub(hub_limits limits) : state_{std::make_unique<state>(limits)} {}
hub::~hub() = default;

void hub::begin(position at, std::uint64_t before_us) {
  const std::scoped_lock lock{state_->guard};
  state_->serving = before_us == 0;
  state_->before_us = {at.epoch, before_us, position::end_of_commit};
  state_->head = at;
  state_->floor = at;
  state_->begun = at;
  // Each process counts its notifications from a place of its own, so that a position another one gave out is recognised.
  state_->first_notify = position::first_notify_index + (std::random_device{}() % 1024 << 20);
}

void hub::serve() {
  const std::scoped_lock lock{state_->guard};
  state_->serving = true;
}

bool hub::came_before_us(const position& at) const {
  const std::scoped_lock lock{state_->guard};
  return at.epoch == state_->before_us.epoch && at <= state_->before_us;
}

bool hub::serving() const {
  const std::scoped_lock lock{state_->guard};
  return state_->serving;
}

void hub::state::publish(std::shared_ptr<batch> events) {
  const std::shared_ptr<const batch> owner = events;
  const auto derived = std::exchange(events->derived_, nullptr);
  if (derived) derived->hold(owner);  // their payloads may stand in its memory
  const auto derivations = std::exchange(events->derivations_, {});
  std::size_t next = 0, ahead = 0;
  channel_state* channel = nullptr;
  const char* same = nullptr;  // a run of events of one channel shares the name's bytes
  for (auto* const e : events->events()) {
    place(*e);
    if (channel == nullptr || e->channel.data() != same) {
      channel = &open(e->channel);
      same = e->channel.data();
    }
    link(*channel, *e);
    for (const auto& to : channel->subscriptions) put(*to.where, owner, to.to, *e);
    for (; next < derivations.size() && events->events_[derivations[next].base] == e; ++next) {
      for (; ahead < std::min(next + prefetch_distance, derivations.size()); ++ahead)
        prefetch(derivations[ahead].to->found_.get(), sizeof(channel_state::subscriptions));
      pass_on(derived, *derived->events_[next], *e, *derivations[next].to);
    }
  }
  keep(std::move(events));
}

bool hub::publish(std::shared_ptr<batch> events, part of_last) {
  auto& s = *state_;
  const std::scoped_lock lock{s.guard};
  if (events->empty()) return s.has_room();
  const bool notified = events->events().front()->at == position{};
  if (notified && s.midway) {
    s.hold(std::move(events));
    return s.has_room();
  }
  s.publish(std::move(events));
  if (of_last == part::piece)
    s.midway = true;
  else
    s.end_transaction();
  return s.has_room();
}

bool hub::has_room() const {
  const std::scoped_lock lock{state_->guard};
  return state_->has_room();
}

void hub::advance(position at) {
  const std::scoped_lock lock{state_->guard};
  at.index = std::max(at.index, position::end_of_commit);
  if (at.epoch != state_->head.epoch || at <= state_->head) return;
  state_->head = at;
  state_->end_transaction();
}

void hub::state::announce_gap(position from, position to, std::string_view reason, bus::channels among) {
  head = std::max(head, to);
  const auto seq = next_seq++;
  const auto time = now_micros();
  gaps.push_back({from, to, head, seq, time, std::string{reason}, among});
  if (gaps.size() > max_gaps) {  // whoever resumes from before the forgotten one is told of a gap all the same
    gaps[1].from = gaps[0].from;
    if (gaps[0].among == bus::channels::all) gaps[1].among = bus::channels::all;
    gaps.pop_front();
  }
  to_everyone(kind::gap, gap_payload(from, to, reason), head, time, seq, among);
}

void hub::announce_gap(position from, position to, std::string_view reason, bus::channels among) {
  auto& s = *state_;
  const std::scoped_lock lock{s.guard};
  const bool beyond = to > s.head;
  s.announce_gap(from, to, reason, among);
  if (beyond) s.end_transaction();
}

void hub::announce_reset(position at, std::string_view reason) {
  auto& s = *state_;
  const std::scoped_lock lock{s.guard};
  metrics::add(metrics::counter::resets);
  while (!s.kept.empty()) s.drop_oldest();
  s.floor_seq = s.next_seq;
  s.gaps.clear();
  s.head = at;
  s.floor = at;
  s.begun = at;
  for (auto& [name, channel] : s.channels) {
    channel->last = nullptr;
    channel->last_seq = 0;
    channel->last_at = {};
    channel->known_since = at;
  }
  s.to_everyone(kind::reset, reset_payload(at, reason), at, now_micros(), s.next_seq++, bus::channels::all);
  s.end_transaction();
}

position hub::head() const {
  const std::scoped_lock lock{state_->guard};
  return state_->head;
}

position hub::whole_since() const {
  const std::scoped_lock lock{state_->guard};
  auto since = state_->floor;
  for (const auto& g : state_->gaps)
    if (g.among == channels::all) since = std::max(since, g.to);
  return since;
}

void hub::attach(shard& s) {
  const std::scoped_lock lock{state_->guard};
  state_->shards.push_back(&s);
}

void hub::detach(shard& s) {
  const std::scoped_lock lock{state_->guard};
  std::erase(state_->shards, &s);
  for (auto& [name, channel] : state_->channels) channel->leave(s);
}

replay hub::subscribe(shard& s, topic& t, std::string_view history, const progress& from, portion most, inbox& taken) {
  const std::scoped_lock lock{state_->guard};
  auto given = state_->since(history, from, most);
  if (!given.end) return given;
  auto& open = state_->open(t.channel());
  if (std::ranges::none_of(open.subscriptions, [&](const auto& to) { return to.to == &t; })) open.subscriptions.push_back({&s, &t});
  std::swap(s.pending_, taken);
  return given;
}

void hub::take(shard& s, inbox& taken) {
  const std::scoped_lock lock{state_->guard};
  std::swap(s.pending_, taken);
}

void hub::unsubscribe(shard& s, std::string_view channel) {
  const std::scoped_lock lock{state_->guard};
  const auto found = state_->channels.find(channel);
  if (found == state_->channels.end()) return;
  found->second->leave(s);
  state_->forget_if_unused(*found->second);
}

replay hub::history(std::string_view channel, const progress& from, portion most) const {
  const std::scoped_lock lock{state_->guard};
  return state_->since(channel, from, most);
}

replay hub::history(std::span<const lane> lanes, portion most) const {
  const std::scoped_lock lock{state_->guard};
  return state_->since(lanes, most);
}

std::vector<hub::channel_summary> hub::summary(std::size_t most) const {
  std::vector<channel_summary> all;
  {
    const std::scoped_lock lock{state_->guard};
    all.reserve(state_->channels.size());
    for (const auto& [name, channel] : state_->channels)
      all.push_back({name, channel->subscriptions.size(), channel->events, channel->last_at});
  }
  const auto wanted = std::min(most, all.size());
  const auto rank = [](const channel_summary& c) { return std::pair{c.shards != 0, c.events}; };
  std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(wanted), std::ranges::greater{}, rank);
  all.resize(wanted);
  return all;
}

}  // namespace postbus::bus
