#include "driver/publisher.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "driver/marker.hpp"
#include "driver/sockets.hpp"

namespace bench {

publisher::publisher(options chosen) : options_{std::move(chosen)}, fd_{connect_blocking(options_.target)} {
  if (options_.speaks == publishing::raw) send_all(fd_, "P");
  if (options_.speaks == publishing::websocket) {
    send_all(fd_, websocket_request(options_.path, options_.host, options_.subprotocol));
    std::string head;
    char byte = 0;
    while (!head.ends_with("\r\n\r\n")) {
      if (recv(fd_, &byte, 1, 0) <= 0) throw failure{fmt::format("the publisher was refused: {}", head)};
      head.push_back(byte);
    }
    if (!head.starts_with("HTTP/1.1 101")) throw failure{fmt::format("the publisher was refused: {}", head)};
  }
  set_nonblocking(fd_);
}

publisher::~publisher() { close(fd_); }

void publisher::add(std::uint64_t number) {
  const auto text = message(options_.size, number);
  switch (options_.speaks) {
    case publishing::raw: pending_ += text; break;
    case publishing::websocket: append_client_frame(pending_, 1, options_.before + text + options_.after); break;
    case publishing::post:
      pending_ += fmt::format("POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}", options_.path,
                              options_.host, text.size(), text);
      break;
  }
}

void publisher::flush() {
  while (!pending_.empty()) {
    const auto sent = send(fd_, pending_.data(), pending_.size(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN) return;
      fail_errno("publish");
    }
    pending_.erase(0, static_cast<std::size_t>(sent));
  }
}

void publisher::drain() {
  char dropped[16'384];
  while (true) {
    const auto got = recv(fd_, dropped, sizeof dropped, 0);
    if (got == 0) throw failure{"the server closed the publisher"};
    if (got < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      fail_errno("publisher");
    }
    if (options_.speaks == publishing::websocket && static_cast<unsigned char>(dropped[0]) == 0x88) {
      throw failure{fmt::format("the server closed the publisher: {}", std::string_view{dropped + 2, static_cast<std::size_t>(got) - 2})};
    }
  }
}

}  // namespace bench
