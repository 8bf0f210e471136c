#include "postgres/server_leftover.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/log.hpp"

namespace postbus::postgres {
namespace fs = std::filesystem;
namespace {

/** True when `pid` is a process that works in `cluster`: a postmaster and its children stand in their data folder. */
bool works_in(pid_t pid, const fs::path& cluster) {
  std::error_code fault;
  const auto folder = fs::read_symlink(fmt::format("/proc/{}/cwd", pid), fault);
  return !fault && fs::equivalent(folder, cluster, fault) && !fault;
}

bool anything_works_in(const fs::path& cluster) {
  std::error_code fault;
  for (const auto& entry : fs::directory_iterator{"/proc", fault})
    if (const pid_t pid = std::atoi(entry.path().filename().c_str()); pid > 0 && works_in(pid, cluster)) return true;
  return false;
}

}  // namespace

pid_file read_pid_file(const fs::path& cluster) {
  std::ifstream in{cluster / "postmaster.pid"};
  pid_file found;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (number == 1) found.pid = std::atoi(line.c_str());
    if (number == 8) found.ready = line.starts_with("ready");
  }
  return found;
}

result<> stop_leftover(const fs::path& cluster, steady::duration deadline) {
  const auto [pid, ready] = read_pid_file(cluster);
  if (pid <= 0) return {};
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  const bool alive = pidfd >= 0;
  if (alive && works_in(pid, cluster)) {
    log::warning("postgres", "a server (pid {}) was left behind by a gateway that was killed; shutting it down", pid);
    for (const int number : {SIGINT, SIGQUIT, SIGKILL}) {
      ::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
      pollfd waited{pidfd, POLLIN, 0};
      if (::poll(&waited, 1, static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(deadline).count())) > 0) break;
    }
  } else if (alive && !anything_works_in(cluster)) {
    ::unlink((cluster / "postmaster.pid").c_str());  // the number belongs to another program now; PostgreSQL would refuse to start
  }
  if (alive) ::close(pidfd);
  return {};
}

}  // namespace postbus::postgres
