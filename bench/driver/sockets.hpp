#pragma once
#include <netinet/in.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace bench {

/** A driver stops at the first thing that does not go as measured: there is nobody to heal for. */
struct failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fail_errno(std::string_view what);

/** "127.0.0.1:7432" as an address. */
sockaddr_in parse_address(std::string_view text);

/** A TCP socket with TCP_NODELAY, connected, blocking. */
int connect_blocking(const sockaddr_in& to);
/** A non-blocking socket whose connect() has begun. Closing it sends RST, so that no port is left in TIME_WAIT. */
int connect_begin(const sockaddr_in& to);
/** A listening socket on 127.0.0.1; port 0 takes a free one. */
int listen_on(std::uint16_t port, std::uint16_t& taken);
void set_nonblocking(int fd);
/** Writes all of it, waiting where the socket is full. */
void send_all(int fd, std::string_view bytes);

/** The request that opens a WebSocket. `host` goes into the Host header, `protocol` into Sec-WebSocket-Protocol where not empty. */
std::string websocket_request(std::string_view path, std::string_view host, std::string_view protocol = {});
/** A whole client frame (masked with zero: the bytes stand as they are), opcode 1 for text, 10 for pong. */
void append_client_frame(std::string& out, unsigned opcode, std::string_view payload);

}  // namespace bench
