#pragma once
#include <functional>
#include <thread>

namespace postbus::app {

/**
 * Turns SIGINT and SIGTERM into one call of a function, on a thread of its own, while the object lives. Make it before any
 * other thread: threads inherit the blocked signals. A second signal ends the program at once, as by default.
 */
class stop_signals {
public:
  explicit stop_signals(std::function<void()> stop);
  ~stop_signals();
  stop_signals(const stop_signals&) = delete;
  stop_signals& operator=(const stop_signals&) = delete;

private:
  void run();
  std::function<void()> stop_;
  int signals_{-1};
  int end_{-1};
  std::thread thread_;
};

}  // namespace postbus::app
