#include "bus/shard.hpp"

#include <algorithm>

#include "base/prefetch.hpp"
#include "bus/channel.hpp"

namespace postbus::bus {

void inbox::clear() {
  entries.clear();
  owners.clear();
  bytes = 0;
}

shard::shard(hub& h, std::array<encoder, max_wire_forms> encoders, std::function<void()> wake)
    : hub_{h}, encoders_{encoders}, wake_{std::move(wake)} {
  hub_.attach(*this);
}

shard::~shard() { hub_.detach(*this); }

topic& shard::open(std::string_view channel) {
  if (const auto found = topics_.find(channel); found != topics_.end()) return *found->second;
  auto made = std::make_unique<topic>(std::string{channel});
  auto& t = *made;
  topics_.emplace(t.channel(), std::move(made));
  return t;
}

void shard::close_if_unused(topic& t) {
  if (t.subscribers() != 0) return;
  hub_.unsubscribe(*this, t.channel());
  deliver();  // the inbox may still point to the topic
  if (t.dirty) std::erase(dirty_, &t);
  topics_.erase(topics_.find(t.channel()));
}

template <class Attach>
replay shard::subscribe(std::string_view channel, const progress& from, std::string_view history, portion most, Attach attach) {
  auto& t = open(channel);
  auto given = hub_.subscribe(*this, t, history.empty() ? channel : history, from, most, taken_);
  if (given.end) {
    hand_out(taken_);
    attach(t);
  } else if (t.subscribers() == 0) {
    topics_.erase(topics_.find(t.channel()));  // the hub does not know of it yet
  }
  return given;
}

replay shard::subscribe(cursor& c, wire_form form, std::string_view channel, const progress& from, std::string_view history, portion most) {
  return subscribe(channel, from, history, most, [&](topic& t) { t.attach(c, form); });
}

replay shard::subscribe(listener& l, std::string_view channel, const progress& from, std::string_view history, portion most) {
  return subscribe(channel, from, history, most, [&](topic& t) { t.attach(l); });
}

void shard::unsubscribe(cursor& c) {
  const auto found = topics_.find(c.channel());
  if (found == topics_.end()) return;
  auto& t = *found->second;
  t.detach(c);
  close_if_unused(t);
}

void shard::caught_up(const cursor& c) {
  if (const auto found = topics_.find(c.channel()); found != topics_.end()) mark(*found->second);
}

void shard::unsubscribe(listener& l, std::string_view channel) {
  const auto found = topics_.find(channel);
  if (found == topics_.end()) return;
  auto& t = *found->second;
  t.detach(l);
  close_if_unused(t);
}

void shard::deliver() {
  hub_.take(*this, taken_);
  hand_out(taken_);
}

void shard::hand_out(inbox& taken) {
  event_ref next;  // a run of events of one batch takes one share of it
  for (std::size_t i = 0; i < taken.entries.size(); ++i) {
    if (i + prefetch_distance < taken.entries.size()) prefetch(taken.entries[i + prefetch_distance].to, topic::read_first);
    const auto& e = taken.entries[i];
    if (next.owner != taken.owners[e.owner]) next.owner = taken.owners[e.owner];
    next.item = e.item;
    if (e.to == nullptr)
      hand_out_to_all(*e.item, e.among);
    else if (e.to->deliver(encoders_, next))
      mark(*e.to);
  }
  taken.clear();
}

void shard::hand_out_to_all(const event& e, bus::channels among) {
  for (auto& [channel, t] : topics_) {
    if (among == bus::channels::plain && !is_plain(channel)) continue;
    auto copy = std::make_shared<batch>();
    auto& made = copy->add(channel, e.kind, e.form, e.payload, e.at, e.time);
    made.seq = e.seq;
    if (t->deliver(encoders_, {copy, &made})) mark(*t);
  }
}

void shard::mark(topic& t) {
  if (t.dirty) return;
  t.dirty = true;
  dirty_.push_back(&t);
}

void shard::flush() {
  for (auto* const t : dirty_) {
    t->dirty = false;
    t->flush();
  }
  dirty_.clear();
}

std::size_t shard::subscribers(std::string_view channel) const {
  const auto found = topics_.find(channel);
  return found == topics_.end() ? 0 : found->second->subscribers();
}

std::vector<std::pair<std::string, std::size_t>> shard::summary() const {
  std::vector<std::pair<std::string, std::size_t>> all;
  all.reserve(topics_.size());
  for (const auto& [channel, t] : topics_) all.emplace_back(channel, t->subscribers());
  return all;
}

std::size_t shard::retained() const {
  std::size_t sum = 0;
  for (const auto& [channel, t] : topics_) sum += t->retained();
  return sum;
}

}  // namespace postbus::bus
