#include "base/metrics.hpp"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

namespace postbus::metrics {
namespace {

constexpr auto counters = static_cast<std::size_t>(counter::count_);
constexpr auto gauges = static_cast<std::size_t>(gauge::count_);

// One block of cells per thread. Only the owner writes; a scrape reads all blocks and what ended threads left behind.
struct cells {
  std::array<std::atomic<std::uint64_t>, counters> value{};
  cells();
  ~cells();
};

struct registry {
  registry() { gauge_values[static_cast<std::size_t>(gauge::lag_micros)] = unknown; }  // nothing is read yet, and by NOTIFY never
  std::mutex guard;  // of the two below
  std::set<const cells*> live;
  std::array<std::uint64_t, counters> ended{};
  std::array<std::atomic<std::int64_t>, gauges> gauge_values{};
};

registry& all() {
  static auto* const made = new registry;  // outlives every thread's cells
  return *made;
}

cells::cells() {
  const std::scoped_lock lock{all().guard};
  all().live.insert(this);
}

cells::~cells() {
  const std::scoped_lock lock{all().guard};
  all().live.erase(this);
  for (std::size_t i = 0; i < counters; ++i) all().ended[i] += value[i].load(std::memory_order_relaxed);
}

cells& own() {
  thread_local cells mine;
  return mine;
}

}  // namespace

void add(counter which, std::uint64_t amount) {
  auto& cell = own().value[static_cast<std::size_t>(which)];
  cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

void set(gauge which, std::int64_t value) { all().gauge_values[static_cast<std::size_t>(which)].store(value, std::memory_order_relaxed); }
void adjust(gauge which, std::int64_t amount) {
  all().gauge_values[static_cast<std::size_t>(which)].fetch_add(amount, std::memory_order_relaxed);
}

std::uint64_t value(counter which) {
  const auto index = static_cast<std::size_t>(which);
  const std::scoped_lock lock{all().guard};
  auto sum = all().ended[index];
  for (const auto* thread : all().live) sum += thread->value[index].load(std::memory_order_relaxed);
  return sum;
}

std::int64_t value(gauge which) { return all().gauge_values[static_cast<std::size_t>(which)].load(std::memory_order_relaxed); }

std::string exposition() {
  std::string out;
  std::string_view last_family;
  const auto line = [&](std::string_view family, std::string_view type, std::string_view labels, std::string_view help, auto number) {
    if (family != last_family) fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n", family, help, type);
    last_family = family;
    if (labels.empty())
      fmt::format_to(std::back_inserter(out), "{} {}\n", family, number);
    else
      fmt::format_to(std::back_inserter(out), "{}{{{}}} {}\n", family, labels, number);
  };
#define COUNTER(name, family, labels, help) line(family, "counter", labels, help, value(counter::name));
  const auto known = [](gauge which) {
    const auto now = value(which);
    return now == unknown ? std::string{"NaN"} : std::to_string(now);
  };
#define GAUGE(name, family, labels, help) line(family, "gauge", labels, help, known(gauge::name));
#include "base/metrics.def"
#undef COUNTER
#undef GAUGE
  return out;
}

}  // namespace postbus::metrics
