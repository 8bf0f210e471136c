#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "bus/event.hpp"
#include "postbus/event.hpp"

namespace postbus::embed {

/** A user's function and whether it may still be called. */
struct target {
  explicit target(std::function<void(const event&)> to) : handler{std::move(to)} {}
  std::function<void(const event&)> handler;
  std::atomic<bool> ended{false};
};

/**
 * One thread that calls handlers, and the queue in front of it. The queue takes everything it is given; it tells when it
 * is over its bound, and the one who fills it stops then until `drained` is called.
 * Thread safety: any thread, except that the destructor is not the dispatcher's own.
 */
class dispatcher {
public:
  dispatcher(std::size_t bound, std::function<void()> drained);
  ~dispatcher();
  dispatcher(const dispatcher&) = delete;
  dispatcher& operator=(const dispatcher&) = delete;

  void push(std::shared_ptr<target> to, bus::event_ref e);
  /** False beyond the bound; `drained` is called once half of it has been handled. */
  bool has_room();
  /** Ends a target; waits until its handler does not run, unless it is the handler that calls. */
  void end(target& t);
  /** Handles nothing more and joins the thread. */
  void stop();

private:
  struct entry {
    std::shared_ptr<target> to;
    bus::event_ref item;
  };
  void run();
  void call(const entry& next);

  const std::size_t bound_;
  const std::function<void()> drained_;
  std::mutex guard_;  // of all below
  std::condition_variable changed_;
  std::deque<entry> queue_;
  const target* running_{};
  bool full_{};
  bool stopping_{};
  std::thread thread_;
};

}  // namespace postbus::embed
