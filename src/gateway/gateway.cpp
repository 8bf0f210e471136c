#include "gateway/gateway.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "base/log.hpp"
#include "gateway/loop.hpp"
#include "gateway/session.hpp"

namespace postbus::gateway {
namespace {

struct address {
  sockaddr_storage storage{};
  socklen_t size{};
};

result<address> parse_address(const std::string& text, std::uint16_t port) {
  address made;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&made.storage);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&made.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    made.size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    made.size = sizeof *v6;
  } else {
    return error{errc::invalid_argument, "'" + text + "' is no IP address to listen on; give for instance 127.0.0.1, 0.0.0.0 or ::1"};
  }
  return made;
}

}  // namespace

server::server(bus::hub& hub, backend& behind, gateway_options options)
    : shared_{std::make_unique<shared>(hub, behind, std::move(options))} {
  const auto threads = std::max(1u, shared_->options.threads);
  for (unsigned i = 0; i < threads; ++i) shared_->loops.push_back(std::make_unique<loop>(*shared_));
}

server::~server() {
  if (shared_->listening_socket >= 0) ::close(shared_->listening_socket);
}

result<> server::listen() {
  auto where = parse_address(shared_->options.address, shared_->options.port);
  if (!where) return where.error();
  auto* const raw = reinterpret_cast<sockaddr*>(&where->storage);
  const int fd = ::socket(raw->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return error{errc::io, "cannot open a socket", std::strerror(errno)};
  shared_->listening_socket = fd;
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd, raw, where->size) != 0 || ::listen(fd, 4096) != 0) {
    const int why = errno;
    const auto place = shared_->options.address + ":" + std::to_string(shared_->options.port);
    if (why == EADDRINUSE)
      return error{errc::conflict,
                   place + " is in use: is another gateway running? Choose another with --port N, or --port 0 for any free one"};
    if (why == EADDRNOTAVAIL) return error{errc::invalid_argument, place + " is no address of this machine"};
    if (why == EACCES)
      return error{errc::forbidden, "no permission to listen on " + place + ": ports below 1024 need root; choose another with --port"};
    return error{errc::io, "cannot listen on " + place, std::strerror(why)};
  }
  ::getsockname(fd, raw, &where->size);
  shared_->bound_port =
      ntohs(raw->sa_family == AF_INET ? reinterpret_cast<sockaddr_in*>(raw)->sin_port : reinterpret_cast<sockaddr_in6*>(raw)->sin6_port);
  return {};
}

std::uint16_t server::port() const { return shared_->bound_port; }

boost::asio::any_io_executor server::executor() { return shared_->loops.front()->context().get_executor(); }

void server::run() {
  std::vector<std::jthread> others;
  for (std::size_t i = 1; i < shared_->loops.size(); ++i) others.emplace_back([&each = *shared_->loops[i]] { each.run(); });
  shared_->loops.front()->run();
}

void server::stop() {
  if (shared_->draining.exchange(true)) return;
  // Loop 0 carries the database side: it goes last, so that what others have under way can finish.
  for (auto& each : shared_->loops) each->post([&each = *each] { each.begin_drain(); });
}

void server::finish(const std::function<bool()>& done, std::chrono::milliseconds at_most) {
  auto& context = shared_->loops.front()->context();
  context.restart();
  const auto end = steady::now() + at_most;
  while (!done() && context.run_one_until(end) != 0) {
  }
}

void server::replace_tokens(std::shared_ptr<const token_set> tokens) {
  shared_->tokens.store(tokens);
  for (auto& each : shared_->loops)
    each->post([&each = *each, tokens] {
      each.for_each([&](session& s) {
        if (s.who() != nullptr) s.recheck(tokens ? tokens->find(s.who()->digest) : nullptr);
      });
    });
}

void server::replace_tls(std::shared_ptr<const tls_context> tls) { shared_->tls.store(std::move(tls)); }

}  // namespace postbus::gateway
