#include "gateway/snapshot_rows.hpp"

#include "base/metrics.hpp"

namespace postbus::gateway {

snapshot_rows::snapshot_rows(std::unique_ptr<feeds::spool_reader> from, std::function<void()> wake)
    : from_{std::move(from)}, wake_{[rung = rung_, wake = std::move(wake)] {
        rung->store(true);
        wake();
      }} {}

snapshot_rows::outcome snapshot_rows::next(const std::function<void(const bus::event&)>& put) {
  if (!rung_->exchange(false)) return outcome::waiting;
  auto row = from_->next(wake_);
  if (!row) {
    why_ = row.error();
    return outcome::failed;
  }
  if (!*row) return from_->finished() ? outcome::complete : outcome::waiting;
  rung_->store(true);
  bus::event e;
  e.time = from_->time();
  e.channel = from_->channel();
  e.payload = **row;
  e.kind = bus::kind::row;
  e.form = bus::payload_form::json;
  put(e);
  metrics::add(metrics::counter::events_out);
  metrics::add(metrics::counter::snapshot_rows);
  return outcome::row;
}

bool snapshot_rows::join(bus::replay& given) {
  if (!given.complete) return false;
  if (joined_) return true;
  const auto& join = from_->join();
  std::vector<bus::event_ref> out;
  out.reserve(given.events.size() + 1);
  // Resuming after `through` gives all that comes behind it; what lies before and was not seen can be had here only.
  auto alone = std::make_shared<bus::batch>();
  auto e = given.events.begin();
  for (; e != given.events.end() && (*e)->at <= join.through; ++e) {
    const bool notice = (*e)->kind == bus::kind::gap || (*e)->kind == bus::kind::reset;
    if (!notice && join.seen.sees((*e)->xid)) continue;
    auto& copy = alone->add((*e)->channel, (*e)->kind, (*e)->form, (*e)->payload, {}, (*e)->time);
    copy.seq = (*e)->seq;
    out.push_back({alone, &copy});
  }
  joined_ = e != given.events.end() || given.end;
  if (!joined_) {
    given.events = std::move(out);
    return true;
  }
  auto& live = alone->add(from_->channel(), bus::kind::live, bus::payload_form::json, R"({"rows":)" + std::to_string(from_->rows()) + '}',
                          join.through, now_micros());
  out.push_back({alone, &live});
  out.insert(out.end(), std::make_move_iterator(e), std::make_move_iterator(given.events.end()));
  given.events = std::move(out);
  return true;
}

bus::event_ref start_over(std::string_view channel, const bus::position& head) {
  metrics::add(metrics::counter::resets);
  auto alone = std::make_shared<bus::batch>();
  auto& made = alone->add(channel, bus::kind::reset, bus::payload_form::json,
                          R"({"position":")" + bus::to_text(head) + R"(","reason":"snapshot"})", {}, now_micros());
  return {alone, &made};
}

}  // namespace postbus::gateway
