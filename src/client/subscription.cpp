#include <exception>
#include <mutex>

#include "client/subscription.hpp"

namespace postbus {

subscription::impl::impl(listener from, std::function<void(const event&)> to) : source{std::move(from)}, handler{std::move(to)} {
  thread = std::thread{[this] { run(); }};
}

subscription::impl::~impl() {
  source.stop();
  if (thread.joinable()) thread.join();
}

void subscription::impl::run() {
  try {
    while (!source.stopped())
      if (const auto e = source.next(std::chrono::hours{1}); e && !source.stopped()) handler(*e);
  } catch (...) {
    const std::lock_guard lock{guard};
    failure = std::current_exception();
  }
  const std::lock_guard lock{guard};
  done = true;
  changed.notify_all();
}

void subscription::impl::wait() {
  std::unique_lock lock{guard};
  changed.wait(lock, [&] { return done; });
  if (failure) std::rethrow_exception(failure);
}

subscription::subscription(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
subscription::subscription(subscription&&) noexcept = default;
subscription& subscription::operator=(subscription&&) noexcept = default;
subscription::~subscription() = default;
void subscription::stop() & { impl_->source.stop(); }
void subscription::wait() & { impl_->wait(); }

}  // namespace postbus
