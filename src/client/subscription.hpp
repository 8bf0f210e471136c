#pragma once
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "postbus/client.hpp"

namespace postbus {

/** A listener drained by a thread: a second one beside the listener's own, so that a slow handler never delays an answer to a ping. */
struct subscription::impl {
  impl(listener from, std::function<void(const event&)> to);
  ~impl();
  void run();
  void wait();

  listener source;
  std::function<void(const event&)> handler;
  std::mutex guard;
  std::condition_variable changed;
  bool done{};
  std::exception_ptr failure;
  std::thread thread;
};

}  // namespace postbus
