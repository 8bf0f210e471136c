#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "gateway/tls.hpp"

namespace postbus::gateway {

/** A client's socket, non-blocking, with or without TLS. Owns the descriptor. Movable: a session hands it on when the protocol changes. */
class socket {
public:
  socket() = default;
  /** `context` null: plain. */
  socket(int fd, std::shared_ptr<const tls_context> context);
  socket(socket&& other) noexcept;
  socket& operator=(socket&& other) noexcept;
  ~socket();

  int fd() const { return fd_; }
  io_outcome read(std::span<char> into);
  io_outcome write(std::string_view bytes);
  /** TLS: of what was written a record waits for the socket; flush() goes on with it. */
  bool holds() const { return tls_ && tls_->stream.holds(); }
  io_outcome flush() { return tls_ ? tls_->stream.flush() : io_outcome{io_outcome::what::done}; }
  /** True when a read that filled only part of its buffer does not mean that the socket is dry: TLS hands out one record at a time. */
  bool reads_in_parts() const { return tls_ != nullptr; }
  /** TLS: the last read cannot go on before the socket takes bytes (a handshake whose answer did not fit). */
  bool read_waits_for_write() const { return tls_ && tls_->stream.wants_write(); }
  /** TLS: the handshake is over. */
  bool handshake_done() const { return !tls_ || tls_->stream.handshake_done(); }
  /** No more will be written: sends what tells the peer so. */
  void shutdown_write();

private:
  struct tls_part {
    std::shared_ptr<const tls_context> context;
    tls_stream stream;
  };
  int fd_{-1};
  std::unique_ptr<tls_part> tls_;
};

}  // namespace postbus::gateway
