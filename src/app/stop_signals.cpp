#include "app/stop_signals.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>

namespace postbus::app {
namespace {

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

stop_signals::stop_signals(std::function<void()> stop) : stop_{std::move(stop)} {
  const auto set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = ::signalfd(-1, &set, SFD_CLOEXEC);
  end_ = ::eventfd(0, EFD_CLOEXEC);
  if (signals_ < 0 || end_ < 0) throw std::system_error{errno, std::generic_category(), "cannot watch for signals"};
  thread_ = std::thread{[this] { run(); }};
}

stop_signals::~stop_signals() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(end_, &one, sizeof one);
  thread_.join();
  ::close(signals_);
  ::close(end_);
}

void stop_signals::run() {
  for (bool first = true;; first = false) {
    std::array<pollfd, 2> watched{pollfd{signals_, POLLIN, 0}, pollfd{end_, POLLIN, 0}};
    while (::poll(watched.data(), watched.size(), -1) < 0 && errno == EINTR) {
    }
    if (watched[1].revents != 0) return;
    signalfd_siginfo got;
    if (::read(signals_, &got, sizeof got) != sizeof got) continue;
    if (first) {
      stop_();
      continue;
    }
    const auto set = stop_set();
    ::signal(static_cast<int>(got.ssi_signo), SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    ::raise(static_cast<int>(got.ssi_signo));
  }
}

}  // namespace postbus::app
