#include "client/listen_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json_text.hpp"
#include "client/event_text.hpp"

namespace postbus::remote {
namespace {

/** Close codes and statuses after which another attempt meets the same answer (errors.def). */
bool is_final_close(int code) { return code == 4400 || code == 4401 || code == 4403; }
bool is_position(std::string_view after) { return !after.empty() && after != "now" && after != "beginning"; }
bool is_final_status(int status) { return status >= 300 && status < 500 && status != 408 && status != 425 && status != 429; }

}  // namespace

listen_session::listen_session(std::vector<std::string> channels, std::string after, channel_positions known, std::uint64_t seed,
                               listen_filter of, std::string consumer)
    : after_{std::move(after)}, snapshot_{of.snapshot}, consumer_{std::move(consumer)}, random_{seed} {
  for (auto& name : channels) {
    if (std::ranges::any_of(channels_, [&](const channel& c) { return c.name == name; })) continue;
    const auto at = known.find(name);
    auto start = at != known.end() ? at->second : is_position(after_) ? after_ : std::string{};
    channels_.push_back({.name = std::move(name), .at = start, .start = std::move(start)});
  }
  open_ = channels_.size();
  if (!of.where.empty()) {
    filter_ = R"(,"where":)";
    append_json_string(filter_, of.where);
  }
  for (const auto& name : of.columns) {
    filter_ += &name == &of.columns.front() ? R"(,"columns":[)" : ",";
    append_json_string(filter_, name);
  }
  if (!of.columns.empty()) filter_ += ']';
  if (of.maybe) filter_ += R"(,"maybe":true)";
  if (of.snapshot) filter_ += R"(,"snapshot":true)";
}

std::vector<std::string> listen_session::opened() {
  up_ = true;
  all_asked_ = begins_anew_ = false;
  open_ = channels_.size();
  now_ = 0;
  for (auto& c : channels_) {
    c.confirmed = false;
    c.begins_now = c.at.empty() && consumer_.empty() && !snapshot_ && (c.over || after_ != "beginning");
    now_ += c.begins_now ? 1 : 0;
  }
  return now_ > 0 ? subscribe(true) : due();
}

std::vector<std::string> listen_session::due() {
  if (now_ > 0 || std::exchange(all_asked_, true)) return {};
  return subscribe(false);
}

std::vector<std::string> listen_session::subscribe(bool those_that_begin_now) const {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < channels_.size(); ++i) {
    const auto& c = channels_[i];
    if (c.begins_now != those_that_begin_now) continue;
    auto& text = out.emplace_back(fmt::format(R"({{"id":{},"op":"subscribe","channel":)", i + 1));
    append_json_string(text, c.name);
    const auto from = !c.at.empty() ? c.at : c.over ? std::string{} : after_;  // "beginning" or "now" until something is known
    if (c.at.empty() && !consumer_.empty()) {
      text += R"(,"consumer":)";
      append_json_string(text, consumer_);
    } else if (!from.empty()) {
      text += R"(,"after":)";
      append_json_string(text, from);
    }
    text += filter_;
    text += '}';
  }
  return out;
}

listen_session::channel* listen_session::find(std::int64_t id) {
  return id >= 1 && static_cast<std::size_t>(id) <= channels_.size() ? &channels_[static_cast<std::size_t>(id) - 1] : nullptr;
}

result<std::optional<event>> listen_session::received(std::string_view frame) {
  auto parsed = parse_server_message(frame);
  if (!parsed) return parsed.error();
  if (auto* e = std::get_if<event_message>(&*parsed)) {
    auto* const c = find(e->sub);
    if (!c) return error{errc::protocol, "the gateway sent an event of a subscription that was never made"};
    c->over = c->over || (e->item.kind == event_kind::reset && e->item.position.empty());
    c->at = e->item.position;  // none in a snapshot: whoever is interrupted there starts over
    if (!consumer_.empty() && e->item.kind == event_kind::reset) {
      c->at.clear();
      begins_anew_ = true;
    }
    c->partial = c->at.empty() && e->item.kind != event_kind::reset ? e->item.at : std::string{};
    return std::optional{std::move(e->item)};
  }
  if (auto* ok = std::get_if<confirmed_message>(&*parsed)) {
    auto* const c = find(ok->id);
    if (!c || c->confirmed) return error{errc::protocol, "the gateway confirmed a subscription that was never made"};
    c->confirmed = true;
    if (c->begins_now) {
      --now_;
      c->at = c->start = std::move(ok->position);
    }
    if (--open_ == 0) attempts_ = 0;
    if (c->partial.empty()) return std::optional<event>{};
    return std::optional{event{.position = {},
                               .channel = c->name,
                               .at = std::exchange(c->partial, {}),
                               .payload = R"({"position":null,"reason":"snapshot"})",
                               .kind = event_kind::reset,
                               .is_json = true}};
  }
  auto& refusal = std::get<refused_message>(*parsed);
  if (const auto* c = find(refusal.id)) refusal.why.text = fmt::format("channel {}: {}", c->name, refusal.why.text);
  refused_ = !traits(refusal.why.code).retry;
  return std::move(refusal.why);
}

std::optional<steady::duration> listen_session::ended(const link_end& how) {
  up_ = false;
  if (refused_ || is_final_close(how.close_code) || is_final_status(how.http_status)) return std::nullopt;
  // A gateway that drains sends everybody away at once: they come back spread over a second. One that found us too slow
  // is itself well: no need to wait for it.
  if (how.close_code == 1001 && attempts_ == 0) return pick({}, drain_spread);
  if (how.close_code == 4001 && attempts_ == 0) return pick({}, first_pause);
  const auto doubled = std::min<std::chrono::milliseconds>(first_pause * (1 << std::min(attempts_, 10)), longest_pause);
  ++attempts_;
  return pick(doubled / 2, doubled);
}

steady::duration listen_session::pick(std::chrono::milliseconds least, std::chrono::milliseconds most) {
  std::uniform_int_distribution<std::int64_t> between{least.count(), most.count()};
  return std::chrono::milliseconds{between(random_)};
}

channel_positions listen_session::starts() const {
  channel_positions out;
  for (const auto& c : channels_)
    if (!c.start.empty()) out.emplace(c.name, c.start);
  return out;
}

}  // namespace postbus::remote
