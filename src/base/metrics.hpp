#pragma once
#include <cstdint>
#include <string>

namespace postbus::metrics {

/** Counters only grow. Gauges are set or adjusted. Both are made from metrics.def. */
enum class counter {
#define COUNTER(name, family, labels, help) name,
#define GAUGE(name, family, labels, help)
#include "base/metrics.def"
#undef COUNTER
#undef GAUGE
  count_
};
enum class gauge {
#define COUNTER(name, family, labels, help)
#define GAUGE(name, family, labels, help) name,
#include "base/metrics.def"
#undef COUNTER
#undef GAUGE
  count_
};

/** Adds to this thread's own cell: no lock, no shared cache line. Any thread. */
void add(counter which, std::uint64_t amount = 1);
/** A gauge's value while nobody can know it: NaN for who scrapes. */
inline constexpr std::int64_t unknown = INT64_MIN;

/** Gauges are shared between threads and rare. */
void set(gauge which, std::int64_t value);
void adjust(gauge which, std::int64_t amount);

std::uint64_t value(counter which);
std::int64_t value(gauge which);

/** The Prometheus text exposition format, version 0.0.4. */
std::string exposition();

}  // namespace postbus::metrics
