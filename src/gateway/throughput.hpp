#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "base/clock.hpp"

namespace postbus::gateway {

/** Counts since the start of the process. */
struct flow {
  std::uint64_t events_in{}, events_out{}, posts{};
};

/**
 * What flowed per second over the last few seconds, from counts that somebody reads once a second: nothing is done per
 * message. I/O-free, time comes in as an argument. Any thread.
 */
class throughput {
public:
  static constexpr steady::duration every{std::chrono::seconds{1}};
  struct rates {
    double events_in{}, events_out{}, posts{};  ///< per second
  };

  throughput(steady::time_point now, const flow& counted);
  /** True once a second has passed since the last sample. */
  bool due(steady::time_point now) const;
  void sample(steady::time_point now, const flow& counted);
  /** From the oldest sample kept, five to six seconds old once there are as many, until now. */
  rates until(steady::time_point now, const flow& counted) const;

private:
  struct moment {
    steady::time_point at;
    flow counted;
  };
  mutable std::mutex guard_;
  std::array<moment, 6> samples_{};  // a ring
  std::size_t newest_{}, kept_{1};
};

}  // namespace postbus::gateway
