#include "gateway/session.hpp"

#include <sys/epoll.h>

#include <utility>

#include "base/metrics.hpp"

namespace postbus::gateway {
namespace {

/** For the peer to close after our last word. */
constexpr std::chrono::milliseconds peer_deadline{2'000};

}  // namespace

session::session(loop& home, socket&& s, std::unique_ptr<identity> who) : home_{home}, socket_{std::move(s)}, who_{std::move(who)} {}

session::~session() {
  if (handle_) *handle_ = nullptr;
}

void session::socket_ready(std::uint32_t events) {
  if (closed_) return;
  if ((events & EPOLLOUT) != 0 && blocked_) {
    blocked_ = false;
    if (flush_socket()) flush();
    if (closed_) return;
    if (!blocked_) on_drained();
  }
  if ((events & EPOLLOUT) != 0 && socket_.read_waits_for_write()) events |= EPOLLIN;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0 || closed_) return;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) ended_ = true;
  if (reading_paused_) {
    unread_ = true;
    if (ended_) on_end();
    return;
  }
  read_some();
}

void session::read_some() {
  // A client that sends without end gets this many buffers a turn; the rest waits for the others' turn.
  constexpr int buffers_a_turn = 4;
  for (int i = 0; i < buffers_a_turn; ++i) {
    const auto buffer = home_.read_buffer();
    const auto got = socket_.read(buffer);
    switch (got.is) {
      case io_outcome::what::done: break;
      case io_outcome::what::would_block: return;
      case io_outcome::what::closed: on_end(); return;
      case io_outcome::what::failed: close(); return;
    }
    on_bytes(buffer.first(got.bytes));
    if (closed_) return;
    if (reading_paused_) {
      unread_ = true;
      return;
    }
    if (socket_.fd() < 0) return;  // handed on
    if (got.bytes < buffer.size() && !socket_.reads_in_parts() && !ended_) return;  // edge-triggered: more bytes ring again
  }
  home_.post([weak = handle()] {
    if (auto* const self = *weak; self != nullptr && !self->closed_ && !self->reading_paused_) self->read_some();
  });
}

void session::resume_reading() {
  reading_paused_ = false;
  if (!unread_) return;
  unread_ = false;
  home_.post([weak = handle()] {
    if (auto* const self = *weak; self != nullptr && !self->closed_ && !self->reading_paused_) self->read_some();
  });
}

std::string& session::out() {
  if (!out_) out_ = std::make_unique<backlog>();
  return out_->bytes;
}

bool session::flush_socket() {
  switch (socket_.flush().is) {
    case io_outcome::what::done: return true;
    case io_outcome::what::would_block: blocked_ = true; return false;
    default: close(); return false;
  }
}

std::size_t session::write(std::string_view bytes) {
  std::size_t done = 0;
  while (done < bytes.size() && !blocked_) {
    const auto sent = socket_.write(bytes.substr(done));
    if (sent.is == io_outcome::what::done) {
      done += sent.bytes;
      metrics::add(metrics::counter::bytes_out, sent.bytes);
    } else if (sent.is == io_outcome::what::would_block) {
      blocked_ = true;
    } else {
      close();
      break;
    }
  }
  blocked_ = blocked_ || socket_.holds();
  return done;
}

bool session::write_out() {
  if (!out_) return true;
  out_->done += write(std::string_view{out_->bytes}.substr(out_->done));
  if (out_->done < out_->bytes.size() || blocked_) return false;
  out_.reset();
  return true;
}

void session::flush() {
  if (blocked_ || closed_) return;
  if (write_out() && closing_) close();
}

void session::close_after_out() {
  closing_ = true;
  home_.flush_later(*this);
  arm(home_.limits().stall_deadline);
}

void session::close_when_peer_does() {
  if (std::exchange(said_all_, true)) return;
  shutdown_write();
  arm(peer_deadline);
}

void session::close_if_stalled() {
  if (!out_ || out_->done == out_->done_before) return close();
  out_->done_before = out_->done;
  arm(home_.limits().stall_deadline);
}

void session::close() {
  if (closed_) return;
  closed_ = true;
  timer_.cancel();
  home_.destroy_later(*this);
}

void session::hand_over(std::unique_ptr<session> next, std::span<char> unread) {
  auto& heir = *next;
  heir.out_ = std::move(out_);
  heir.blocked_ = blocked_;
  close();
  home_.watch(heir.socket_.fd(), heir, false);
  home_.adopt(std::move(next));
  home_.flush_later(heir);
  if (!unread.empty() && !heir.closed_) heir.on_bytes(unread);
}

std::function<void()> session::flush_from_any_thread() {
  return [home = &home_, weak = handle()] {
    home->post([home, weak] {
      if (auto* const self = *weak; self != nullptr && !self->closed_) home->flush_later(*self);
    });
  };
}

std::shared_ptr<session*> session::handle() {
  if (!handle_) handle_ = std::make_shared<session*>(this);
  return handle_;
}

}  // namespace postbus::gateway
