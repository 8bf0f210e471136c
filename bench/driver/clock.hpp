#pragma once
#include <time.h>

#include <cstdint>

namespace bench {

/** CLOCK_MONOTONIC in nanoseconds: what every driver stamps and compares. One machine, one clock. */
inline std::int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

}  // namespace bench
