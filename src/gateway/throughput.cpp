#include "gateway/throughput.hpp"

#include <algorithm>
#include <chrono>

namespace postbus::gateway {

throughput::throughput(steady::time_point now, const flow& counted) { samples_[0] = {now, counted}; }

bool throughput::due(steady::time_point now) const {
  const std::scoped_lock lock{guard_};
  return now - samples_[newest_].at >= every;
}

void throughput::sample(steady::time_point now, const flow& counted) {
  const std::scoped_lock lock{guard_};
  newest_ = (newest_ + 1) % samples_.size();
  samples_[newest_] = {now, counted};
  kept_ = std::min(kept_ + 1, samples_.size());
}

throughput::rates throughput::until(steady::time_point now, const flow& counted) const {
  const std::scoped_lock lock{guard_};
  const auto& from = samples_[(newest_ + samples_.size() + 1 - kept_) % samples_.size()];
  // Less than a second makes no rate: one event in the first millisecond would be a thousand a second.
  const auto seconds = std::chrono::duration<double>(std::max<steady::duration>(now - from.at, every)).count();
  const auto rate = [seconds](std::uint64_t later, std::uint64_t earlier) { return static_cast<double>(later - earlier) / seconds; };
  return {rate(counted.events_in, from.counted.events_in), rate(counted.events_out, from.counted.events_out),
          rate(counted.posts, from.counted.posts)};
}

}  // namespace postbus::gateway
