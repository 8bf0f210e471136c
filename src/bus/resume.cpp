// What a listener that resumes is given; how history is kept: hub_state.hpp.
#include <algorithm>

#include "base/json_text.hpp"
#include "bus/channel.hpp"
#include "bus/hub_state.hpp"

namespace postbus::bus {

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

namespace {

/** Leaves as much as is asked for. */
void cut(replay& given, portion most) {
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

}  // namespace

template <class Had>
hub::state::stretch hub::state::walk(const channel_state& channel, const Had& had, portion most) const {
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

// The kept events of `name` after `from`, oldest first; see hub_state.hpp.
replay hub::state::since(std::string_view name, const progress& from, portion most) const {
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
    given.events.insert(given.events.begin(), lone_event(name, kind::reset, reset_payload(to, "window"), to, now_micros(), floor_seq - 1));
  } else if (!complete) {
    metrics::add(metrics::counter::gaps_history);
    const auto to = given.events.empty() ? head : std::max(after, floor);
    given.events.insert(given.events.begin(),
                        lone_event(name, kind::gap, gap_payload(after, to, "history"), to, now_micros(), floor_seq - 1));
  }
  for (const auto& g : gaps) {
    // At the very place of one that was told late nobody knows whether it was heard.
    const bool knows = g.at < asked || (g.at == asked && g.at == g.to);
    if (g.seq <= from.seq || knows || (g.among == bus::channels::plain && !is_plain(name))) continue;
    if (all && (given.events.empty() || g.seq < given.events.front()->seq)) continue;  // nothing was promised from before that
    if (g.among == bus::channels::all) given.whole = false;
    const auto behind = std::ranges::find_if(given.events, [&](const event_ref& e) { return e->seq > g.seq; });
    if (behind == given.events.end() && !given.end) continue;  // it comes with a later portion
    given.events.insert(
        behind, lone_event(name, kind::gap, gap_payload(std::min(std::max(g.from, after), g.to), g.to, g.reason), g.at, g.time, g.seq));
  }
  cut(given, most);
  return given;
}

// Each channel is known up to the end of its own portion: together they are up to the first of these.
replay hub::state::since(std::span<const lane> lanes, portion most) const {
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

result<start> parse_start(std::string_view text) {
  if (text.empty() || text == "now") return start{from_now{}};
  if (text == "beginning") return start{from_beginning{}};
  auto at = parse_position(text);
  if (!at) return at.error();
  return start{*at};
}

}  // namespace postbus::bus
