#pragma once
#include <atomic>

namespace postbus::postgres {

/** What a server's supervisor is asked to do. A stop is for good: nothing that is asked or done at the same moment takes it back. Any thread. */
class server_order {
public:
  void restart() { change(wish::run, wish::restart); }
  void stop() { wish_ = wish::stop; }
  /** The server is to end, whatever comes then. */
  bool given() const { return wish_ != wish::run; }
  bool stopped() const { return wish_ == wish::stop; }
  /** The supervisor: the server has ended, and a restart that was asked for is under way. False where there was none, or a stop. */
  bool take_restart() { return change(wish::restart, wish::run); }

private:
  enum class wish { run, restart, stop };
  bool change(wish from, wish to) { return wish_.compare_exchange_strong(from, to); }
  std::atomic<wish> wish_{wish::run};
};

}  // namespace postbus::postgres
