#include "driver/process.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "driver/sockets.hpp"

namespace bench {

std::int64_t cpu_ns(const std::vector<int>& processes) {
  std::int64_t total = 0;
  for (const int process : processes) {
    std::error_code problem;
    for (const auto& thread : std::filesystem::directory_iterator{fmt::format("/proc/{}/task", process), problem}) {
      std::ifstream file{thread.path() / "schedstat"};
      std::int64_t used = 0;
      if (file >> used) total += used;
    }
    if (problem) throw failure{fmt::format("process {}: {}", process, problem.message())};
  }
  return total;
}

}  // namespace bench
