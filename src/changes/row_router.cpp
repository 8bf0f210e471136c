#include "changes/row_router.hpp"

#include <algorithm>

namespace postbus::changes {

namespace pgoutput = postgres::pgoutput;

void row_router::claim(std::string schema, std::string name, row_handler& to) {
  claims_.push_back({std::move(schema), std::move(name), &to});
  if (std::ranges::find(all_, &to) == all_.end()) all_.insert(all_.end() - 1, &to);
}

row_handler& row_router::of(std::uint32_t relation) const {
  const auto found = by_relation_.find(relation);
  return found == by_relation_.end() ? *all_.back() : *found->second;
}

void row_router::begins_at(const bus::position& from) {
  for (auto* const each : all_) each->begins_at(from);
}

void row_router::started(int server_version) {
  by_relation_.clear();
  for (auto* const each : all_) each->started(server_version);
}

void row_router::relation(const transaction& in, const pgoutput::relation& r) {
  const auto claim = std::ranges::find_if(claims_, [&](const claimed& c) { return c.schema == r.schema && c.name == r.name; });
  if (claim != claims_.end())
    by_relation_[r.oid] = claim->by;
  else
    by_relation_.erase(r.oid);
  // A partition of what is claimed: its rows come as that relation's, and there is a new one with every segment.
  if (claim == claims_.end() && std::ranges::find(claims_, r.schema, &claimed::schema) != claims_.end()) return;
  of(r.oid).relation(in, r);
}

bool row_router::insert(const transaction& in, const pgoutput::insert& change, bus::batch& out) {
  return of(change.relation).insert(in, change, out);
}
bool row_router::update(const transaction& in, const pgoutput::update& change, bus::batch& out) {
  return of(change.relation).update(in, change, out);
}
bool row_router::delete_(const transaction& in, const pgoutput::delete_& change, bus::batch& out) {
  return of(change.relation).delete_(in, change, out);
}

void row_router::truncate(const transaction& in, const pgoutput::truncate& change, bus::batch& out) {
  // One truncate may name relations of several handlers; each passes over those it was never told of.
  for (auto* const each : all_) {
    bool concerned = false;
    for (auto relations = change.relations(); const auto id = relations.next();) concerned |= &of(*id) == each;
    if (concerned) each->truncate(in, change, out);
  }
}

void row_router::internal(const transaction& in, std::string_view name, std::string_view content) {
  for (auto* const each : all_) each->internal(in, name, content);
}

bool row_router::wants_to_resolve() const {
  return std::ranges::any_of(all_, [](const row_handler* each) { return each->wants_to_resolve(); });
}

boost::asio::awaitable<result<>> row_router::resolve() {
  for (auto* const each : all_) {
    if (!each->wants_to_resolve()) continue;
    auto resolved = co_await each->resolve();
    if (!resolved) co_return resolved;
  }
  co_return result<>{};
}

void row_router::moved(std::size_t from) {
  for (auto* const each : all_) each->moved(from);
}

void row_router::committed(std::span<bus::event* const> events, std::size_t known) {
  for (auto* const each : all_) each->committed(events, known);
}

void row_router::completed() {
  for (auto* const each : all_) each->completed();
}

void row_router::abandoned() {
  for (auto* const each : all_) each->abandoned();
}

void row_router::lost(const bus::position& at) {
  for (auto* const each : all_) each->lost(at);
}

bool row_router::has_room() const {
  return std::ranges::all_of(all_, [](const row_handler* each) { return each->has_room(); });
}

void row_router::before_publish(bus::batch& events) {
  for (auto* const each : all_) each->before_publish(events);
}

}  // namespace postbus::changes
