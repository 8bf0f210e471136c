#pragma once
#include <boost/asio/awaitable.hpp>

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::postgres {

/**
 * The addresses of a host name, on the resolver thread of the coroutine's io_context. errc::unavailable, errc::timed_out.
 * A lookup that is late goes on in its thread and holds up later ones of the same io_context: the system has no way to stop it.
 */
boost::asio::awaitable<result<std::vector<std::string>>> look_up(std::string host, steady::time_point deadline);

}  // namespace postbus::postgres
