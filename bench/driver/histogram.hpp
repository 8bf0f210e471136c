#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace bench {

/** Counts of durations in nanoseconds, in buckets of 1/64 of a power of two (under 1.6 % wide). */
class histogram {
public:
  void add(std::int64_t ns) {
    const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, 0));
    ++counts_[bucket(value)];
    ++total_;
    max_ = std::max(max_, value);
  }
  std::uint64_t total() const { return total_; }
  double max_us() const { return static_cast<double>(max_) / 1e3; }

  /** The value below which `share` (0 to 1) of the samples lie, in microseconds; 0 without samples. */
  double quantile_us(double share) const {
    if (total_ == 0) return 0;
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(total_ - 1));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > wanted) return static_cast<double>(middle(i)) / 1e3;
    }
    return max_us();
  }

private:
  static constexpr unsigned bits = 6;
  static std::size_t bucket(std::uint64_t value) {
    if (value < (1u << bits)) return value;
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - bits - 1;
    return ((shift + 1) << bits) + ((value >> shift) & ((1u << bits) - 1));
  }
  static std::uint64_t middle(std::size_t index) {
    if (index < (1u << bits)) return index;
    const auto shift = (index >> bits) - 1;
    const auto low = ((index & ((1u << bits) - 1)) | (1u << bits)) << shift;
    return low + (std::uint64_t{1} << shift) / 2;
  }
  std::array<std::uint64_t, (64 - bits + 1) << bits> counts_{};
  std::uint64_t total_{};
  std::uint64_t max_{};
};

}  // namespace bench
