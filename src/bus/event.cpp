#include "bus/event.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <type_traits>

#include "base/json_text.hpp"

namespace postbus::bus {
namespace {

constexpr std::array<std::string_view, 15> words{"message", "insert", "update", "delete", "truncate", "row",   "live", "enter",
                                                 "leave",   "schema", "task",   "value",  "gap",      "reset", "ended"};
constexpr std::size_t first_block_bytes = 512, last_block_bytes = 64 * 1024;

}  // namespace

std::string_view to_text(kind k) { return words[static_cast<std::size_t>(k)]; }

result<kind> parse_kind(std::string_view word) {
  const auto found = std::ranges::find(words, word);
  if (found == words.end() || word == to_text(kind::ended))
    return error{errc::invalid_argument, "no such kind of event: " + std::string{word}};
  return static_cast<kind>(found - words.begin());
}

std::string_view public_name(std::string_view channel) { return channel.substr(0, channel.find('\x1f')); }

char* batch::allocate(std::size_t size) {
  size = (size + alignof(event) - 1) & ~(alignof(event) - 1);
  if (size > left_) {
    // Blocks double, so that a batch of one message costs little and a bulk batch allocates seldom.
    const auto usual = std::min(last_block_bytes, first_block_bytes << std::min<std::size_t>(blocks_.size(), 16));
    const auto block = std::max(size, usual);
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(block));
    reserved_ += block;
    if (size >= usual) return blocks_.back().get();  // a large piece gets its own block; the open one stays open
    free_ = blocks_.back().get();
    left_ = block;
  }
  char* const taken = free_;
  free_ += size;
  left_ -= size;
  return taken;
}

event& batch::add(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time) {
  char* const copy = allocate(payload.size());
  if (!payload.empty()) std::memcpy(copy, payload.data(), payload.size());
  return add_owned(channel, k, form, {copy, payload.size()}, at, time);
}

event& batch::add_owned(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time) {
  if (events_.empty() || events_.back()->channel != channel) {
    char* const copy = allocate(channel.size());
    if (!channel.empty()) std::memcpy(copy, channel.data(), channel.size());
    channel = {copy, channel.size()};
  } else {
    channel = events_.back()->channel;  // a run of one channel shares its name, which the hub notices too
  }
  return append(channel, k, form, payload, at, time);
}

event& batch::append(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time) {
  static_assert(std::is_trivially_destructible_v<event>);
  auto* const made = ::new (allocate(sizeof(event))) event{};
  made->at = at;
  made->time = time;
  made->channel = channel;
  made->payload = payload;
  made->kind = k;
  made->form = form;
  events_.push_back(made);
  return *made;
}

event& batch::add_copy(const event& e, const batch& other) {
  auto& made = add(e.channel, e.kind, e.form, e.payload, e.at, e.time);
  made.xid = e.xid;
  if (!e.origin.empty()) {
    char* const copy = allocate(e.origin.size());
    std::memcpy(copy, e.origin.data(), e.origin.size());
    made.origin = {copy, e.origin.size()};
    for (const auto& kept : other.held_) hold(kept);
  }
  return made;
}

void batch::hold(const std::shared_ptr<const void>& kept) {
  if ((held_.empty() || held_.back() != kept) && std::ranges::find(held_, kept) == held_.end()) held_.push_back(kept);
}

batch& batch::derived() {
  if (!derived_) derived_ = std::make_shared<batch>();
  return *derived_;
}

event& batch::derive(std::size_t base, destination& to, kind k, std::string_view payload) {
  const auto& from = *events_[base];
  auto& made = derived().append(from.channel, k, payload_form::json, payload, from.at, from.time);
  made.xid = from.xid;
  derivations_.push_back({base, &to});
  return made;
}

void append_event_json(std::string& out, const event& e) {
  out += R"({"id":)";
  if (e.at == position{}) {
    out += "null";
  } else {
    out += '"';
    append_text(out, e.at);
    out += '"';
  }
  out += R"(,"channel":)";
  append_json_string(out, public_name(e.channel));
  out += R"(,"kind":")";
  out += to_text(e.kind);
  out += R"(","at":")";
  append_rfc3339(out, e.time);
  out += R"(","payload":)";
  if (e.form == payload_form::json)
    out += e.payload;
  else
    append_json_string(out, e.payload);
  out += '}';
}

}  // namespace postbus::bus
