#pragma once
#include <chrono>

#include "base/clock.hpp"

namespace postbus::changes {

/**
 * When to look for committed WAL that nobody has flushed. I/O-free.
 *
 * A walsender sends flushed WAL only, so a commit with synchronous_commit=off arrives when the walwriter gets to it, 0.1
 * to 0.4 s late. Polling for such WAL costs the server something, so it happens only where it helps: a commit that comes
 * `late` on a stream that had nothing else to send starts it, and `quiet` without a find ends it. A start that finds
 * nothing at all was a false alarm (a slow server, a late wake-up), and the next `distrust` worth of late commits is ignored.
 * Source: the figures in docs/guarantees.md, "Commits that do not wait for the disk".
 */
class flush_policy {
public:
  struct timing {
    steady::duration late{std::chrono::milliseconds{20}};
    steady::duration every{std::chrono::milliseconds{2}};
    steady::duration quiet{std::chrono::seconds{5}};
    steady::duration distrust{std::chrono::seconds{30}};
  };
  explicit flush_policy(timing given) : timing_{given} {}

  /**
   * A commit arrived `after` its commit time, both by the server's clock. `caught_up`: the server had sent all it had
   * before it. True when this starts the polling.
   */
  bool arrived(steady::time_point now, steady::duration after, bool caught_up);
  /** A poll has ended; `found`: there was unflushed WAL. */
  void polled(steady::time_point now, bool found);
  bool polling() const { return polling_; }
  /** The time of the next poll; meaningful while polling. */
  steady::time_point next() const { return next_; }

private:
  timing timing_;
  bool polling_{};
  bool found_any_{};
  steady::time_point next_{}, last_find_{}, ignore_until_{};
};

}  // namespace postbus::changes
