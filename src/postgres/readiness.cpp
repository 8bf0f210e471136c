#include "postgres/readiness.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace postbus::postgres {

using boost::system::error_code;

void readiness::release() {
  if (socket_.is_open()) socket_.release();
}

void readiness::cancel() {
  error_code ignored;
  socket_.cancel(ignored);
}

void readiness::close() {
  timer_.cancel();
  cancel();
  release();
}

asio::awaitable<void> readiness::wait(bool read, bool write, steady::time_point deadline) {
  const auto self = shared_from_this();
  deadline_ = deadline;
  if (deadline < armed_for_) arm();
  const bool both = read && write;
  if (both) {
    socket_.async_wait(socket_.wait_write, [self](error_code failed) {
      if (!failed) self->cancel();
    });
  }
  co_await socket_.async_wait(read ? socket_.wait_read : socket_.wait_write, asio::as_tuple(asio::use_awaitable));
  if (both) cancel();
  deadline_ = none;
}

void readiness::arm() {
  armed_for_ = deadline_;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](error_code cancelled) {
    if (cancelled) return;
    self->armed_for_ = none;
    if (self->deadline_ == none) return;
    if (steady::now() < self->deadline_)
      self->arm();
    else
      self->cancel();
  });
}

}  // namespace postbus::postgres
