#include "driver/sockets.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace bench {

void fail_errno(std::string_view what) { throw failure{fmt::format("{}: {}", what, std::strerror(errno))}; }

sockaddr_in parse_address(std::string_view text) {
  const auto colon = text.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  std::uint16_t port = 0;
  if (colon == std::string_view::npos) throw failure{fmt::format("{}: ADDRESS:PORT is wanted", text)};
  const auto digits = text.substr(colon + 1);
  if (std::from_chars(digits.data(), digits.data() + digits.size(), port).ec != std::errc{} ||
      inet_pton(AF_INET, std::string{text.substr(0, colon)}.c_str(), &address.sin_addr) != 1) {
    throw failure{fmt::format("{}: ADDRESS:PORT is wanted", text)};
  }
  address.sin_port = htons(port);
  return address;
}

namespace {

int stream_socket(int flags) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) fail_errno("socket (raise the limit of open files)");
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

const sockaddr* plain(const sockaddr_in& address) { return reinterpret_cast<const sockaddr*>(&address); }

}  // namespace

int connect_blocking(const sockaddr_in& to) {
  const int fd = stream_socket(0);
  if (connect(fd, plain(to), sizeof to) != 0) fail_errno("connect");
  return fd;
}

int connect_begin(const sockaddr_in& to) {
  const int fd = stream_socket(SOCK_NONBLOCK);
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  if (connect(fd, plain(to), sizeof to) != 0 && errno != EINPROGRESS) fail_errno("connect");
  return fd;
}

int listen_on(std::uint16_t port, std::uint16_t& taken) {
  const int fd = stream_socket(0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, plain(address), sizeof address) != 0) fail_errno("bind");
  if (listen(fd, 4096) != 0) fail_errno("listen");
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  taken = ntohs(address.sin_port);
  return fd;
}

void set_nonblocking(int fd) {
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) fail_errno("fcntl");
}

void send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      pollfd wait{.fd = fd, .events = POLLOUT, .revents = 0};
      if (poll(&wait, 1, 10'000) == 0) throw failure{"send: the peer took nothing for 10 s"};
    } else if (errno != EINTR) {
      fail_errno("send");
    }
  }
}

std::string websocket_request(std::string_view path, std::string_view host, std::string_view protocol) {
  auto request = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
      path, host);
  if (!protocol.empty()) request += fmt::format("Sec-WebSocket-Protocol: {}\r\n", protocol);
  return request + "\r\n";
}

void append_client_frame(std::string& out, unsigned opcode, std::string_view payload) {
  out.push_back(static_cast<char>(0x80u | opcode));
  if (payload.size() < 126) {
    out.push_back(static_cast<char>(0x80u | payload.size()));
  } else if (payload.size() < 65'536) {
    out.push_back(static_cast<char>(0x80u | 126u));
    out.push_back(static_cast<char>(payload.size() >> 8));
    out.push_back(static_cast<char>(payload.size() & 0xffu));
  } else {
    throw failure{"a driver's frame is at most 65,535 bytes"};
  }
  out.append(4, '\0');
  out.append(payload);
}

}  // namespace bench
