#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/** Nanoseconds of CPU that the threads of these processes have used so far (/proc/PID/task/TID/schedstat). */
std::int64_t cpu_ns(const std::vector<int>& processes);

}  // namespace bench
