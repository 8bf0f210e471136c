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
  /** TLS: decrypted bytes wait in memory, where no poll sees them. */
  bool has_buffered() const;
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
