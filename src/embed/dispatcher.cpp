#include "embed/dispatcher.hpp"

#include "base/log.hpp"
#include "bus/public_event.hpp"

namespace postbus::embed {

dispatcher::dispatcher(std::size_t bound, std::function<void()> drained) : bound_{bound}, drained_{std::move(drained)} {
  thread_ = std::thread{[this] { run(); }};
}

dispatcher::~dispatcher() { stop(); }

void dispatcher::push(std::shared_ptr<target> to, bus::event_ref e) {
  {
    const std::lock_guard lock{guard_};
    queue_.push_back({std::move(to), std::move(e)});
  }
  changed_.notify_all();
}

bool dispatcher::has_room() {
  const std::lock_guard lock{guard_};
  full_ = full_ || queue_.size() >= bound_;
  return !full_;
}

void dispatcher::end(target& t) {
  t.ended.store(true);
  if (std::this_thread::get_id() == thread_.get_id()) return;
  std::unique_lock lock{guard_};
  changed_.wait(lock, [&] { return running_ != &t; });
}

void dispatcher::stop() {
  {
    const std::lock_guard lock{guard_};
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void dispatcher::call(const entry& next) {
  try {
    next.to->handler(bus::to_public(*next.item));
  } catch (const std::exception& thrown) {
    next.to->ended.store(true);
    log::error("hub", "a handler of {} threw, and its subscription has ended: {}", next.item->channel, thrown.what());
  }
}

void dispatcher::run() {
  std::unique_lock lock{guard_};
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const auto next = std::move(queue_.front());
    queue_.pop_front();
    running_ = next.to.get();
    lock.unlock();
    if (!next.to->ended.load()) call(next);
    lock.lock();
    running_ = nullptr;
    changed_.notify_all();
    if (full_ && queue_.size() <= bound_ / 2) {
      full_ = false;
      lock.unlock();
      drained_();
      lock.lock();
    }
  }
}

}  // namespace postbus::embed
