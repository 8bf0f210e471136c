#pragma once
#include <cstdint>
#include <random>

#include "base/clock.hpp"

namespace postbus::postgres {

/**
 * How long to wait before the next attempt to make a database session: doubling from `first` up to `most`, each drawn
 * from the upper half, so that many gateways do not return to a restarted database in one wave. I/O-free.
 */
class backoff {
public:
  struct timing {
    steady::duration first{std::chrono::milliseconds{100}};
    steady::duration most{std::chrono::seconds{5}};
  };
  /** `seed`: equal seeds give equal waits; std::random_device{}() in production. */
  explicit backoff(std::uint64_t seed, timing given) : timing_{given}, random_{seed} {}
  explicit backoff(std::uint64_t seed) : backoff{seed, timing{}} {}

  /** The wait before the next attempt. */
  steady::duration next();
  /** The session works: the next failure starts from `first` again. */
  void succeeded() { failures_ = 0; }
  /** Attempts since the last success. */
  unsigned failures() const { return failures_; }

private:
  timing timing_;
  std::mt19937_64 random_;
  unsigned failures_{};
};

}  // namespace postbus::postgres
