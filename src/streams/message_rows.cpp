#include "streams/message_rows.hpp"

#include <algorithm>
#include <charconv>
#include <functional>

#include "base/log.hpp"

namespace postbus::streams {
namespace {

namespace pgoutput = postgres::pgoutput;

constexpr std::array<std::string_view, 5> names{"id", "segment", "is_json", "channel", "payload"};

template <class Int>
bool parse(std::string_view text, Int& value) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc{} && end == text.data() + text.size();
}

}  // namespace

void message_rows::relation(const changes::transaction&, const pgoutput::relation& r) {
  places_.fill(SIZE_MAX);
  std::size_t place = 0;
  for (auto columns = r.columns(); const auto c = columns.next(); ++place)
    if (const auto known = std::ranges::find(names, c->name); known != names.end())
      places_[static_cast<std::size_t>(known - names.begin())] = place;
  columns_known_ = std::ranges::find(places_, SIZE_MAX) == places_.end();
  if (!columns_known_) log::error("streams", "postbus.messages has other columns than this version knows: streams are not delivered");
}

bool message_rows::insert(const changes::transaction& in, const pgoutput::insert& change, bus::batch& out) {
  if (!columns_known_) return true;
  std::array<std::string_view, used_columns> row;
  std::size_t place = 0;
  for (auto values = change.row.values(); const auto v = values.next(); ++place)
    if (const auto wanted = std::ranges::find(places_, place); wanted != places_.end())
      row[static_cast<std::size_t>(wanted - places_.begin())] = v->bytes;
  recorder::message m;
  if (!parse(row[id], m.id) || !parse(row[segment], m.segment)) {
    log::error("streams", "a row of postbus.messages cannot be read and is not delivered");
    return true;
  }
  m.bytes = static_cast<std::uint32_t>(row[payload].size());
  m.stream = std::hash<std::string_view>{}(row[channel]);
  out.add(row[channel], bus::kind::message, row[is_json] == "t" ? bus::payload_form::json : bus::payload_form::text, row[payload], {},
          in.time);
  xid_ = in.xid;
  pending_.push_back({out.events().size() - 1 - in.first_event, m});
  return true;
}

void message_rows::internal(const changes::transaction&, std::string_view name, std::string_view) {
  if (name == "recorded") recorder_.tell_progress();
}

boost::asio::awaitable<result<>> message_rows::resolve() { co_return result<>{}; }

void message_rows::moved(std::size_t from) {
  for (auto& p : pending_) p.event += p.event >= from ? 1 : 0;
}

void message_rows::committed(std::span<bus::event* const> events, std::size_t) {
  if (pending_.empty()) return;
  recorder::transaction made{
      .xid = xid_, .epoch = events.front()->at.epoch, .lsn = events.front()->at.lsn, .time = events.front()->time, .messages = {}};
  made.messages.reserve(pending_.size());
  for (auto& p : pending_) {
    p.message.index = events[p.event]->at.index;
    made.messages.push_back(p.message);
  }
  pending_.clear();
  recorder_.add(std::move(made));
}

}  // namespace postbus::streams
