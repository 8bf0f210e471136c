#pragma once
#include <boost/container/deque.hpp>
#include <boost/container/small_vector.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <algorithm>
#include <cassert>
#include <deque>
#include <mutex>
#include <optional>

#include "base/metrics.hpp"
#include "bus/hub.hpp"
#include "bus/shard.hpp"

// How history works. Batches are kept whole, oldest first, up to a bound in bytes. Each event points to the one before
// it on its channel, so a resume walks one channel's events backwards and touches nothing else. It begins at a mark, which
// the channel keeps of one event in many, so that a portion of a long chain costs no more than what it gives. When a batch
// leaves, its events' seqs fall below `floor_seq`, which is how a pointer to one of them is known to be dead. A channel that
// has no event in memory and no subscriber is forgotten; whoever resumes on it from before `floor` is told of a gap, because
// what was forgotten may have been his.
//
// How a transaction is published in pieces. Its positions are known before all of it is here, so nothing else may get a
// position meanwhile: one behind pieces that are still to come would make who resumes there pass over them. Only plain
// notifications come from elsewhere; they wait for its end (`held`), as long as they are within the bound of an inbox.

namespace postbus::bus {

struct channel_state {
  struct subscription {
    shard* where;
    topic* to;
  };
  void leave(const shard& s) {
    subscriptions.erase(std::ranges::remove(subscriptions, &s, &subscription::where).begin(), subscriptions.end());
  }
  boost::container::small_vector<subscription, 2> subscriptions;  // one per shard
  std::string name;
  const event* last{};
  std::uint64_t last_seq{};
  position last_at{};
  position known_since{};  // nothing at or before it is linked here
  std::uint64_t events{};

  static constexpr std::uint64_t events_a_mark = 64;
  struct mark {
    const event* item;
    std::uint64_t seq;
    position at;
  };
  boost::container::deque<mark> marks;  // of events in memory, oldest first
};

struct string_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return boost::hash<std::string_view>{}(text); }
};

/** What every listener was told may be missing, kept for those who resume from before it. */
struct gap {
  position from, to;
  position at;  // where it was told; behind `to` where what is missing was found late
  std::uint64_t seq;
  unix_micros time;
  std::string reason;
  bus::channels among;
};

std::string gap_payload(position from, position to, std::string_view reason);
std::string reset_payload(position at, std::string_view reason);
/** An event in a batch of its own. */
event_ref lone_event(std::string_view channel, kind k, std::string_view payload, position at, unix_micros time, std::uint64_t seq);

struct hub::state {
  explicit state(hub_limits given) : limits{given} {}

  const hub_limits limits;
  mutable std::mutex guard;  // of everything below and of every shard's pending_
  position head{};
  std::uint64_t next_seq{2};  // what is told before the oldest event has the number before it, and 0 is none
  std::deque<std::shared_ptr<batch>> kept;
  std::size_t kept_bytes{};
  std::uint64_t floor_seq{2};  // the oldest seq in memory
  position floor{};            // nothing at or before it can be told for sure
  position begun{};            // where this process began to publish
  position before_us{};        // up to here it published what was committed earlier
  bool serving{};
  std::uint32_t first_notify{position::first_notify_index};  // of this process: see begin()
  std::deque<gap> gaps;
  boost::unordered_flat_map<std::string, std::shared_ptr<channel_state>, string_hash, std::equal_to<>> channels;
  std::vector<shard*> shards;

  bool midway{};  // more pieces of the last transaction are to come
  std::vector<std::shared_ptr<batch>> held;  // what waits for its end
  std::size_t held_bytes{};
  std::optional<position> held_lost;  // more came than may wait: nothing is held of what came from here on up to the last time

  channel_state& open(std::string_view name) {
    if (const auto found = channels.find(name); found != channels.end()) return *found->second;
    auto made = std::make_shared<channel_state>();
    made->name = name;
    made->known_since = floor;
    auto& channel = *made;
    channels.emplace(name, std::move(made));
    metrics::set(metrics::gauge::channels, static_cast<std::int64_t>(channels.size()));
    return channel;
  }

  /** Null where nobody is. */
  channel_state* find(destination& to) const {
    if (!to.found_ || to.found_->subscriptions.empty()) {
      const auto found = channels.find(to.channel());
      to.found_ = found == channels.end() ? nullptr : found->second;
    }
    return to.found_.get();
  }

  void forget_if_unused(channel_state& channel) {
    if (!channel.subscriptions.empty() || channel.last_seq >= floor_seq) return;
    channels.erase(channels.find(channel.name));
    metrics::set(metrics::gauge::channels, static_cast<std::int64_t>(channels.size()));
  }

  void place(event& e) {
    if (e.at == position{}) {
      assert(!midway);
      if (head.index == UINT32_MAX) head = {head.epoch, head.lsn + 1, position::end_of_commit};
      e.at = {head.epoch, head.lsn, head.from_notify() ? head.index + 1 : first_notify};
    }
    assert(e.at >= head || e.at.epoch != head.epoch);
    head = std::max(head, e.at);
    e.seq = next_seq++;
  }

  void link(channel_state& channel, event& e) {
    e.previous = channel.last;
    e.previous_seq = channel.last_seq;
    e.previous_at = channel.last_at;
    channel.last = &e;
    channel.last_seq = e.seq;
    channel.last_at = e.at;
    if (++channel.events % channel_state::events_a_mark == 0) channel.marks.push_back({&e, e.seq, e.at});
  }

  // Puts one event of `owner` into the inbox of a shard. Rings when the inbox was empty.
  static void put(shard& s, const std::shared_ptr<const batch>& owner, topic* to, const event& e,
                  bus::channels among = bus::channels::all) {
    auto& box = s.pending_;
    const bool ring = box.entries.empty();
    if (box.owners.empty() || box.owners.back() != owner) {
      box.owners.push_back(owner);
      box.bytes += owner->bytes();
    }
    box.entries.push_back({to, &e, static_cast<std::uint32_t>(box.owners.size() - 1), among});
    if (ring) s.wake_();
  }

  // A derived event goes to those who are there and is not linked anywhere.
  void pass_on(const std::shared_ptr<batch>& owner, event& e, const event& base, destination& there) {
    e.at = base.at;
    e.seq = base.seq;
    if (const auto* const channel = find(there))
      for (const auto& to : channel->subscriptions) put(*to.where, owner, to.to, e);
  }

  void keep(std::shared_ptr<batch> events) {
    kept_bytes += events->bytes();
    kept.push_back(std::move(events));
    while (kept_bytes > limits.history_bytes && !kept.empty()) drop_oldest();
    metrics::set(metrics::gauge::history_bytes, static_cast<std::int64_t>(kept_bytes));
  }

  void drop_oldest() {
    const auto oldest = std::move(kept.front());
    kept.pop_front();
    kept_bytes -= oldest->bytes();
    const auto& last = *oldest->events().back();
    floor_seq = last.seq + 1;
    floor = std::max(floor, last.at);
    for (const auto* const e : std::as_const(*oldest).events()) {
      const auto found = channels.find(e->channel);
      if (found == channels.end()) continue;
      auto& channel = *found->second;
      if (!channel.marks.empty() && channel.marks.front().seq == e->seq) channel.marks.pop_front();
      if (channel.last_seq == e->seq) forget_if_unused(channel);
    }
  }

  void publish(std::shared_ptr<batch> events);
  void announce_gap(position from, position to, std::string_view reason, bus::channels among);

  void hold(std::shared_ptr<batch> events) {
    held_bytes += events->bytes();
    held.push_back(std::move(events));
    if (held_bytes <= limits.inbox_bytes) return;
    if (!held_lost) held_lost = head;
    held.clear();
    held_bytes = 0;
  }

  /** The last transaction is whole, or what follows is told as a gap: what waited comes behind it. */
  void end_transaction() {
    if (!std::exchange(midway, false)) return;
    if (const auto from = std::exchange(held_lost, std::nullopt)) {
      metrics::add(metrics::counter::gaps_notify);
      head.index = std::max(head.index, position::end_of_commit);
      announce_gap(from->epoch == head.epoch ? *from : head, head, "notify", bus::channels::plain);
    }
    held_bytes = 0;
    for (auto& events : std::exchange(held, {})) publish(std::move(events));
  }

  void to_everyone(kind k, std::string_view payload, position at, unix_micros time, std::uint64_t seq, bus::channels among) {
    const auto note = lone_event("", k, payload, at, time, seq);
    for (auto* const s : shards) put(*s, note.owner, nullptr, *note.item, among);
  }

  bool has_room() const {
    return std::ranges::all_of(shards, [&](const shard* s) { return s->pending_.bytes <= limits.inbox_bytes; });
  }

  // Plain notifications are known to the process that heard them and to no other.
  bool is_foreign_notify(const position& at) const {
    return at.from_notify() && at.lsn <= begun.lsn && (at.lsn < begun.lsn || at.index < first_notify || at > head);
  }

  // What a listener that resumes is given: resume.cpp.
  replay since(std::string_view name, const progress& from, portion most) const;
  replay since(std::span<const lane> lanes, portion most) const;
  /** What stands in a channel's chain after a place, oldest first, to the first mark at which it is more than a portion. */
  struct stretch {
    std::vector<event_ref> events;
    std::uint64_t seq_before;  // of what precedes the first on the channel, in memory or not; 0: nothing
    position before;
    bool more{};
  };
  template <class Had>
  stretch walk(const channel_state& channel, const Had& had, portion most) const;

  std::shared_ptr<const batch> owner_of(std::uint64_t seq) const {
    const auto after = std::ranges::upper_bound(kept, seq, {}, [](const auto& b) { return b->events().front()->seq; });
    return *std::prev(after);
  }
};

}  // namespace postbus::bus
