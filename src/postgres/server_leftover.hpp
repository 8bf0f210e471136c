#pragma once
#include <sys/types.h>

#include <filesystem>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::postgres {

/** The pid and the state of postmaster.pid (PostgreSQL: src/include/utils/pidfile.h); pid 0 when there is none. */
struct pid_file {
  pid_t pid{};
  bool ready{};
};
pid_file read_pid_file(const std::filesystem::path& cluster);

/**
 * Ends the server that a killed gateway left behind in `cluster`, each signal given `deadline`, and takes a pid file away that names
 * another program by now. Blocks.
 */
result<> stop_leftover(const std::filesystem::path& cluster, steady::duration deadline);

}  // namespace postbus::postgres
