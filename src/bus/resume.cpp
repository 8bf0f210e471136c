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

// The kept events of `channel` after `from`, oldest first; see the essay above.
replay hub::state::since(std::string_view name, const start& from, std::size_t most) const {
  replay given{.at = head, .events = {}};
  if (std::holds_alternative<from_now>(from)) return given;
  const bool all = std::holds_alternative<from_beginning>(from);
  const position after = all ? position{} : std::get<position>(from);
  given.before = after;
  if (!all && after.epoch != head.epoch) {
    metrics::add(metrics::counter::resets);
    given.events.push_back(lone_event(name, kind::reset, reset_payload(head, "epoch"), head, now_micros(), next_seq - 1));
    given.complete = false;
    return given;
  }

  bool complete = all || after >= floor;
  if (const auto found = channels.find(name); found != channels.end()) {
    const auto& channel = *found->second;
    const event* e = channel.last;
    std::uint64_t seq = channel.last_seq;
    position at = channel.last_at;
    complete = all || after >= channel.known_since;
    while (seq != 0 && (all || at > after)) {
      if (seq < floor_seq) {  // it was here and is gone
        complete = all;
        break;
      }
      given.events.push_back({owner_of(seq), e});
      seq = e->previous_seq;
      at = e->previous_at;
      e = e->previous;
    }
    // All that lies after `after` was linked here: older events of this channel do not matter.
    if (seq != 0 && !all && at <= after) complete = true;
    std::ranges::reverse(given.events);
    if (all && !given.events.empty()) {
      const auto oldest = given.events.front()->at;
      given.before = std::max(at, channel.known_since);  // no gap is told from there
      if (given.before >= oldest) given.before = just_before(oldest);
    }
  }
  if (!all && is_foreign_notify(after)) complete = false;
  given.complete = given.whole = complete;
  if (!complete && after < begun && !after.from_notify()) {
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
    if (all || g.to <= after || (g.among == bus::channels::plain && !is_plain(name))) continue;
    if (g.among == bus::channels::all) given.whole = false;
    auto note = lone_event(name, kind::gap, gap_payload(std::max(g.from, after), g.to, g.reason), g.to, g.time, g.seq);
    const auto place = std::ranges::find_if(given.events, [&](const event_ref& e) { return e->seq > g.seq; });
    given.events.insert(place, std::move(note));
  }
  if (given.events.size() > most) {
    given.events.resize(most);
    given.at = given.events.back()->at;
  }
  return given;
}

result<start> parse_start(std::string_view text) {
  if (text.empty() || text == "now") return start{from_now{}};
  if (text == "beginning") return start{from_beginning{}};
  auto at = parse_position(text);
  if (!at) return at.error();
  return start{*at};
}

}  // namespace postbus::bus
