#include "bus/topic.hpp"

#include <algorithm>
#include <bit>

#include "base/metrics.hpp"

namespace postbus::bus {
namespace {

/** A log that everybody has read keeps its memory up to here, for the next burst. */
constexpr std::size_t kept_capacity = 256 * 1024;

}  // namespace

std::uint64_t encoded_log::boundary(std::uint64_t offset) const {
  if (offset == base_ && base_is_boundary_) return offset;
  const auto found = std::ranges::lower_bound(ends_, offset);
  return found == ends_.end() ? end() : *found;
}

void encoded_log::append(encoder encode, const event& e) {
  last_begin_ = end();
  encode(bytes_, e);
  ends_.push_back(end());
}

void encoded_log::drop_before(std::uint64_t offset) {
  if (offset == end()) {
    base_ = offset;
    base_is_boundary_ = true;
    bytes_.clear();
    ends_.clear();
    if (bytes_.capacity() > kept_capacity) bytes_ = {};
    if (ends_.capacity() > kept_capacity / sizeof(std::uint64_t)) ends_ = {};
    return;
  }
  bytes_.erase(0, offset - base_);
  base_is_boundary_ = offset == base_ ? base_is_boundary_ : std::ranges::binary_search(ends_, offset);
  base_ = offset;
  ends_.erase(ends_.begin(), std::ranges::upper_bound(ends_, offset));
}

std::string_view cursor::pending() const { return topic_ == nullptr ? std::string_view{} : topic_->forms_[form_]->log.from(offset_); }

std::size_t cursor::bytes_to_boundary() const {
  return topic_ == nullptr ? 0 : static_cast<std::size_t>(topic_->forms_[form_]->log.boundary(offset_) - offset_);
}

std::size_t cursor::lag() const {
  if (topic_ == nullptr) return 0;
  const auto& log = topic_->forms_[form_]->log;
  const auto sending = log.boundary(offset_ + 1);  // the end of the event the cursor stands in or before
  return log.last_begin() > sending ? static_cast<std::size_t>(log.last_begin() - sending) : 0;
}

std::string_view cursor::channel() const { return topic_ == nullptr ? std::string_view{} : topic_->channel(); }

std::size_t topic::subscribers() const {
  auto count = listeners_.size();
  for (const auto& form : forms_)
    if (form) count += form->cursors.size();
  return count;
}

void topic::attach(cursor& c, wire_form form) {
  auto& state = forms_[form];
  if (!state) state = std::make_unique<form_state>();
  forms_in_use_ = static_cast<std::uint8_t>(forms_in_use_ | 1u << form);
  c.topic_ = this;
  c.form_ = form;
  c.offset_ = state->log.end();
  c.slot_ = static_cast<std::uint32_t>(state->cursors.size());
  state->cursors.push_back(&c);
}

void topic::detach(cursor& c) {
  const auto form = c.form_;
  auto& state = forms_[form];
  auto* const last = state->cursors.back();
  state->cursors[c.slot_] = last;
  last->slot_ = c.slot_;
  state->cursors.pop_back();
  c.topic_ = nullptr;
  if (!state->cursors.empty()) return;
  state.reset();
  forms_in_use_ = static_cast<std::uint8_t>(forms_in_use_ & ~(1u << form));
}

void topic::detach(listener& l) { listeners_.erase(std::ranges::remove(listeners_, &l).begin(), listeners_.end()); }

bool topic::deliver(const std::array<encoder, max_wire_forms>& encoders, const event_ref& e) {
  for (unsigned left = forms_in_use_; left != 0; left &= left - 1) {
    const auto form = static_cast<std::size_t>(std::countr_zero(left));
    const auto& state = forms_[form];
    if (e->kind == kind::ended) {
      for (auto* const c : state->cursors) c->on_ended();
      continue;
    }
    state->log.append(encoders[form], *e);
    metrics::add(metrics::counter::events_out, state->cursors.size());
  }
  if (e->kind != kind::ended) metrics::add(metrics::counter::events_out, listeners_.size());
  for (auto* const l : listeners_) l->on_event(*this, e);
  return forms_in_use_ != 0;
}

void topic::flush() {
  for (auto& state : forms_) {
    if (!state) continue;
    auto& log = state->log;
    auto slowest = log.end();
    for (auto* const c : state->cursors) {
      c->on_pending();
      slowest = std::min(slowest, c->offset_);
    }
    // What all have sent is forgotten: at once when nobody lags, else when it is at least half, so that moving the rest
    // to the front costs no more than appending it did.
    if (slowest == log.end() || slowest - log.begin() >= log.end() - slowest) log.drop_before(slowest);
  }
}

std::size_t topic::retained() const {
  std::size_t sum = 0;
  for (const auto& state : forms_)
    if (state) sum += static_cast<std::size_t>(state->log.end() - state->log.begin());
  return sum;
}

}  // namespace postbus::bus
