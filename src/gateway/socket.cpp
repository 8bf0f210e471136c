#include "gateway/socket.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace postbus::gateway {

socket::socket(int fd, std::shared_ptr<const tls_context> context) : fd_{fd} {
  if (context) {
    tls_stream stream{*context, fd};
    tls_ = std::make_unique<tls_part>(std::move(context), std::move(stream));
  }
}

socket::socket(socket&& other) noexcept : fd_{std::exchange(other.fd_, -1)}, tls_{std::move(other.tls_)} {}

socket& socket::operator=(socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(tls_, other.tls_);
  return *this;
}

socket::~socket() {
  if (tls_) tls_->stream.shutdown();
  if (fd_ >= 0) ::close(fd_);
}

io_outcome socket::read(std::span<char> into) {
  if (tls_) return tls_->stream.read(into);
  for (;;) {
    const auto got = ::recv(fd_, into.data(), into.size(), 0);
    if (got > 0) return {io_outcome::what::done, static_cast<std::size_t>(got)};
    if (got == 0) return {io_outcome::what::closed, 0};
    if (errno == EINTR) continue;
    return {errno == EAGAIN || errno == EWOULDBLOCK ? io_outcome::what::would_block : io_outcome::what::failed, 0};
  }
}

io_outcome socket::write(std::string_view bytes) {
  if (tls_) return tls_->stream.write(bytes);
  for (;;) {
    const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) return {io_outcome::what::done, static_cast<std::size_t>(sent)};
    if (errno == EINTR) continue;
    return {errno == EAGAIN || errno == EWOULDBLOCK ? io_outcome::what::would_block : io_outcome::what::failed, 0};
  }
}

void socket::shutdown_write() {
  if (tls_) tls_->stream.shutdown();
  ::shutdown(fd_, SHUT_WR);
}

}  // namespace postbus::gateway
