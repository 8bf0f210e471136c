#pragma once
#include <sys/socket.h>

#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::remote {

struct socket_address {
  sockaddr_storage storage{};
  socklen_t size{};
};

/** The addresses of `host` (a name or a literal), in the resolver's order. getaddrinfo knows no deadline, so a name is looked up on a thread that may outlive the call. */
result<std::vector<socket_address>> look_up(const std::string& host, const std::string& port, steady::time_point deadline);

}  // namespace postbus::remote
