#include "changes/resume_window.hpp"

#include <algorithm>

namespace postbus::changes {

void resume_window::begin(steady::time_point now, std::uint64_t lsn) {
  places_.assign(1, {now, lsn});
  applied_ = lsn;
}

void resume_window::applied(steady::time_point now, std::uint64_t lsn) {
  if (lsn <= applied_) return;
  // A place for each 256th of the window, in time or in bytes: the window is exact to that.
  const auto& last = places_.back();
  if (now - last.at >= bounds_.age / 256 || applied_ - last.lsn >= bounds_.bytes / 256) places_.push_back({now, applied_});
  applied_ = lsn;
}

std::uint64_t resume_window::acknowledge(steady::time_point now, std::uint64_t bound) {
  // Nothing new for a while: what was applied last grows old too.
  if (applied_ > places_.back().lsn && now - places_.back().at >= bounds_.age / 256) places_.push_back({now, applied_});
  const auto done = [&](const place& p) { return now - p.at >= bounds_.age || applied_ - p.lsn >= bounds_.bytes; };
  while (places_.size() > 1 && places_[1].lsn <= bound && done(places_[1])) places_.pop_front();
  return places_.front().lsn;
}

void resume_window::release() {
  const auto latest = places_.back().at;
  if (applied_ > places_.back().lsn) places_.push_back({latest, applied_});
  for (auto& p : places_) p.at = std::min(p.at, latest - bounds_.age);  // all too old; a bound may still keep some
}

}  // namespace postbus::changes
