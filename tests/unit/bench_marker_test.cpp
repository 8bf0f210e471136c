#include <gtest/gtest.h>

#include <vector>

#include "../../bench/driver/histogram.hpp"
#include "../../bench/driver/marker.hpp"

namespace {

std::vector<std::uint64_t> scan_in_two(const std::string& stream, std::size_t cut) {
  bench::scanner scanner;
  bench::carry left;
  std::vector<std::uint64_t> found;
  const auto add = [&](std::uint64_t number) { found.push_back(number); };
  scanner.scan(stream.data(), cut, left, add);
  const auto second = std::string{left.bytes, left.size} + stream.substr(cut);
  scanner.scan(second.data(), second.size(), left, add);
  return found;
}

TEST(bench_marker, is_found_once_wherever_the_stream_is_cut) {
  std::string stream;
  for (std::uint64_t i = 1; i <= 4; ++i) stream += "\x81\x7e@{\"payload\":\"" + bench::message(60, i) + "\"}@";
  const std::vector<std::uint64_t> wanted{1, 2, 3, 4};
  for (std::size_t cut = 0; cut <= stream.size(); ++cut) EXPECT_EQ(scan_in_two(stream, cut), wanted) << "cut at " << cut;
}

TEST(bench_marker, is_found_between_messages_of_any_distance) {
  std::string stream;
  std::vector<std::uint64_t> wanted;
  for (std::uint64_t i = 0; i < 50; ++i) {
    stream += std::string(i * 7 % 13, 'h') + bench::message(bench::marker_size + i % 3 * 20, i);
    wanted.push_back(i);
  }
  EXPECT_EQ(scan_in_two(stream, 0), wanted);
}

TEST(bench_histogram, keeps_quantiles_within_two_percent) {
  bench::histogram h;
  for (std::int64_t ns = 1000; ns <= 1'000'000; ns += 1000) h.add(ns);
  EXPECT_NEAR(h.quantile_us(0.5), 500, 10);
  EXPECT_NEAR(h.quantile_us(0.99), 990, 20);
  EXPECT_EQ(h.max_us(), 1000);
  EXPECT_EQ(h.total(), 1000u);
}

}  // namespace
