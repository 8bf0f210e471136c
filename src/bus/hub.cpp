#include "bus/hub.hpp"

#include <boost/container/deque.hpp>
#include <boost/container/small_vector.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <algorithm>
#include <deque>
#include <mutex>
#include <random>

#include "base/json_text.hpp"
#include "base/metrics.hpp"
#include "base/prefetch.hpp"
#include "bus/channel.hpp"
#include "bus/shard.hpp"

// How history works. Batches are kept whole, oldest first, up to a bound in bytes. Each event points to the one before
// it on its channel, so a resume walks one channel's events backwards and touches nothing else. It begins at a mark, which
// the channel keeps of one event in many, so that a portion of a long chain costs no more than what it gives. When a batch
// leaves, its events' seqs fall below `floor_seq`, which is how a pointer to one of them is known to be dead. A channel that
// has no event in memory and no subscriber is forgotten; whoever resumes on it from before `floor` is told of a gap, because
// what was forgotten may have been his.

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

namespace {

struct string_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return boost::hash<std::string_view>{}(text); }
};

struct gap {
  position from, to;
  std::uint64_t seq;
  unix_micros time;
  std::string reason;
  bus::channels among;
};

constexpr std::size_t max_gaps = 64;

std::string gap_payload(position from, position to, std::string_view reason) {
  std::string json = R"({"from":")";
  append_text(json, from);
  json += R"(","to":")";
  append_text(json, to);
  json += R"(","reason":)";
  append_json_string(json, reason);
  json += '}';
  return json;
}

std::string reset_payload(position at, std::string_view reason) {
  std::string json = R"({"position":")";
  append_text(json, at);
  json += R"(","reason":)";
  append_json_string(json, reason);
  json += '}';
  return json;
}

event_ref lone_event(std::string_view channel, kind k, std::string_view payload, position at, unix_micros time, std::uint64_t seq) {
  auto alone = std::make_shared<batch>();
  auto& made = alone->add(channel, k, payload_form::json, payload, at, time);
  made.seq = seq;
  return {alone, &made};
}

}  // namespace

struct hub::state {
  explicit state(hub_limits given) : limits{given} {}

  const hub_limits limits;
  mutable std::mutex guard;  // of everything below and of every shard's pending_
  position head{};
  std::uint64_t next_seq{1};
  std::deque<std::shared_ptr<batch>> kept;
  std::size_t kept_bytes{};
  std::uint64_t floor_seq{1};  // the oldest seq in memory
  position floor{};            // nothing at or before it can be told for sure
  position begun{};            // where this process began to publish
  bool serving{};
  std::uint32_t first_notify{position::first_notify_index};  // of this process: see begin()
  std::deque<gap> gaps;
  boost::unordered_flat_map<std::string, std::shared_ptr<channel_state>, string_hash, std::equal_to<>> channels;
  std::vector<shard*> shards;

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
      if (head.index == UINT32_MAX) head = {head.epoch, head.lsn + 1, position::end_of_commit};
      e.at = {head.epoch, head.lsn, head.from_notify() ? head.index + 1 : first_notify};
    }
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

  // What stands in a channel's chain after a place, oldest first, to the first mark at which it is more than a portion.
  struct stretch {
    std::vector<event_ref> events;
    std::uint64_t seq_before;  // of what precedes the first on the channel, in memory or not; 0: nothing
    position before;
    bool more{};
  };
  template <class Had>
  stretch walk(const channel_state& channel, const Had& had, portion most) const {
    stretch found{{}, channel.last_seq, channel.last_at};
    auto mark = std::ranges::partition_point(channel.marks, [&](const auto& m) { return had(m.seq, m.at); });
    std::size_t bytes = 0;
    std::uint64_t passed = 0;
    for (;; ++mark) {
      const bool last = mark == channel.marks.end();
      auto at = last ? channel_state::mark{channel.last, channel.last_seq, channel.last_at} : *mark;
      const auto reached = at.seq;
      const auto first = static_cast<std::ptrdiff_t>(found.events.size());
      while (at.seq > passed && at.seq >= floor_seq && !had(at.seq, at.at)) {
        found.events.push_back({owner_of(at.seq), at.item});
        bytes += at.item->payload.size() + event_overhead;
        at = {at.item->previous, at.item->previous_seq, at.item->previous_at};
      }
      std::ranges::reverse(found.events.begin() + first, found.events.end());
      if (passed == 0) {
        found.seq_before = at.seq;
        found.before = at.at;
      }
      passed = reached;
      found.more = reached != channel.last_seq;
      if (!found.more || bytes > most.bytes || found.events.size() > most.events) return found;
    }
  }

  // The kept events of `name` after `from`, oldest first; see the essay above.
  replay since(std::string_view name, const progress& from, portion most) const {
    replay given{.at = head, .next = from};
    if (std::holds_alternative<from_now>(from.from)) return given;
    const bool goes_on = from.seq != 0;
    const bool all = !goes_on && std::holds_alternative<from_beginning>(from.from);
    const auto* const given_position = std::get_if<position>(&from.from);
    const position asked = given_position != nullptr ? *given_position : position{};
    const position after = goes_on ? from.at : asked;
    given.before = after;
    if (!all && after.epoch != head.epoch) {
      metrics::add(metrics::counter::resets);
      given.events.push_back(lone_event(name, kind::reset, reset_payload(head, "epoch"), head, now_micros(), next_seq - 1));
      given.complete = false;
      return given;
    }
    const auto had = [&](std::uint64_t seq, const position& at) { return goes_on ? seq <= from.seq : !all && at <= after; };

    bool complete = all || (goes_on ? from.seq + 1 >= floor_seq : after >= floor);
    if (const auto found = channels.find(name); found != channels.end()) {
      const auto& channel = *found->second;
      auto kept_here = walk(channel, had, most);
      const auto before = kept_here.seq_before;
      if (before == 0)
        complete = all || after >= channel.known_since;
      else
        complete = all || had(before, kept_here.before);  // else it was here and is gone
      given.events = std::move(kept_here.events);
      given.end = !kept_here.more;
      if (all && !given.events.empty()) {
        const auto oldest = given.events.front()->at;
        given.before = std::max(kept_here.before, channel.known_since);  // no gap is told from there
        if (given.before >= oldest) given.before = just_before(oldest);
      }
    }
    if (!all && !goes_on && is_foreign_notify(after)) complete = false;
    given.complete = given.whole = complete;
    if (!complete && !goes_on && after < begun && !after.from_notify()) {
      // From before all that this process knows: what was derived from what came before may be wrong in any way.
      metrics::add(metrics::counter::resets);
      const auto to = given.events.empty() ? head : std::max(begun, floor);
      given.events.insert(given.events.begin(),
                          lone_event(name, kind::reset, reset_payload(to, "window"), to, now_micros(), floor_seq - 1));
    } else if (!complete) {
      metrics::add(metrics::counter::gaps_history);
      const auto to = given.events.empty() ? head : std::max(after, floor);
      given.events.insert(given.events.begin(),
                          lone_event(name, kind::gap, gap_payload(after, to, "history"), to, now_micros(), floor_seq - 1));
    }
    for (const auto& g : gaps) {
      if (g.seq <= from.seq || g.to <= asked || (g.among == bus::channels::plain && !is_plain(name))) continue;
      if (all && (given.events.empty() || g.seq < given.events.front()->seq)) continue;  // nothing was promised from before that
      if (g.among == bus::channels::all) given.whole = false;
      const auto behind = std::ranges::find_if(given.events, [&](const event_ref& e) { return e->seq > g.seq; });
      if (behind == given.events.end() && !given.end) continue;  // it comes with a later portion
      given.events.insert(behind, lone_event(name, kind::gap, gap_payload(std::max(g.from, after), g.to, g.reason), g.to, g.time, g.seq));
    }
    cut(given, most);
    return given;
  }

  static void cut(replay& given, portion most) {
    std::size_t count = 0, bytes = 0;
    for (; count < given.events.size() && count < most.events; ++count) {
      bytes += given.events[count]->payload.size() + event_overhead;
      if (count > 0 && bytes > most.bytes) break;
    }
    if (count < given.events.size()) {
      given.events.resize(count);
      given.end = false;
    }
    if (given.events.empty()) return;
    const auto& last = *given.events.back();
    given.next.at = last.at;
    given.next.seq = last.seq;
    if (!given.end) given.at = last.at;
  }

  // Each channel is known up to the end of its own portion: together they are up to the first of these.
  replay since(std::span<const lane> lanes, portion most) const {
    replay all{.at = head, .next = lanes.front().from, .before = head};
    std::uint64_t upto = UINT64_MAX;
    for (const auto& l : lanes) {
      auto one = since(l.channel, l.from, most);
      all.before = std::min(all.before, one.opening());
      all.complete = all.complete && one.complete;
      all.whole = all.whole && one.whole;
      if (!one.end) upto = std::min(upto, one.next.seq);
      std::ranges::move(one.events, std::back_inserter(all.events));
    }
    all.end = upto == UINT64_MAX;
    std::erase_if(all.events, [&](const event_ref& e) { return e->seq > upto; });
    std::ranges::sort(all.events, {}, [](const event_ref& e) { return std::pair{e->seq, e->channel}; });
    cut(all, {});
    return all;
  }

  std::shared_ptr<const batch> owner_of(std::uint64_t seq) const {
    const auto after = std::ranges::upper_bound(kept, seq, {}, [](const auto& b) { return b->events().front()->seq; });
    return *std::prev(after);
  }
};

result<start> parse_start(std::string_view text) {
  if (text.empty() || text == "now") return start{from_now{}};
  if (text == "beginning") return start{from_beginning{}};
  auto at = parse_position(text);
  if (!at) return at.error();
  return start{*at};
}

hub::hub(hub_limits limits) : state_{std::make_unique<state>(limits)} {}
hub::~hub() = default;

void hub::begin(position at, bool serving) {
  const std::scoped_lock lock{state_->guard};
  state_->serving = serving;
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

bool hub::serving() const {
  const std::scoped_lock lock{state_->guard};
  return state_->serving;
}

bool hub::publish(std::shared_ptr<batch> events) {
  auto& s = *state_;
  const std::scoped_lock lock{s.guard};
  if (!events->empty()) {
    const std::shared_ptr<const batch> owner = events;
    const auto derived = std::exchange(events->derived_, nullptr);
    if (derived) derived->hold(owner);  // their payloads may stand in its memory
    const auto derivations = std::exchange(events->derivations_, {});
    std::size_t next = 0, ahead = 0;
    channel_state* channel = nullptr;
    const char* same = nullptr;  // a run of events of one channel shares the name's bytes
    for (auto* const e : events->events()) {
      s.place(*e);
      if (channel == nullptr || e->channel.data() != same) {
        channel = &s.open(e->channel);
        same = e->channel.data();
      }
      s.link(*channel, *e);
      for (const auto& to : channel->subscriptions) state::put(*to.where, owner, to.to, *e);
      for (; next < derivations.size() && events->events_[derivations[next].base] == e; ++next) {
        for (; ahead < std::min(next + prefetch_distance, derivations.size()); ++ahead)
          prefetch(derivations[ahead].to->found_.get(), sizeof(channel_state::subscriptions));
        s.pass_on(derived, *derived->events_[next], *e, *derivations[next].to);
      }
    }
    s.keep(std::move(events));
  }
  return s.has_room();
}

bool hub::has_room() const {
  const std::scoped_lock lock{state_->guard};
  return state_->has_room();
}

void hub::advance(position at) {
  const std::scoped_lock lock{state_->guard};
  at.index = std::max(at.index, position::end_of_commit);
  if (at.epoch == state_->head.epoch) state_->head = std::max(state_->head, at);
}

void hub::announce_gap(position from, position to, std::string_view reason, bus::channels among) {
  auto& s = *state_;
  const std::scoped_lock lock{s.guard};
  s.head = std::max(s.head, to);
  const auto seq = s.next_seq++;
  const auto time = now_micros();
  s.gaps.push_back({from, to, seq, time, std::string{reason}, among});
  if (s.gaps.size() > max_gaps) {  // whoever resumes from before the forgotten one is told of a gap all the same
    s.gaps[1].from = s.gaps[0].from;
    if (s.gaps[0].among == bus::channels::all) s.gaps[1].among = bus::channels::all;
    s.gaps.pop_front();
  }
  s.to_everyone(kind::gap, gap_payload(from, to, reason), to, time, seq, among);
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
