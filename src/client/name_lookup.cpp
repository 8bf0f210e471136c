#include "client/name_lookup.hpp"

#include <fmt/format.h>
#include <netdb.h>

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace postbus::remote {
namespace {

result<std::vector<socket_address>> ask(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  if (const int failed = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); failed != 0)
    return error{errc::io, fmt::format("cannot find the host {}: {}", host, ::gai_strerror(failed))};
  std::vector<socket_address> out;
  for (const auto* a = found; a; a = a->ai_next) {
    auto& one = out.emplace_back();
    std::memcpy(&one.storage, a->ai_addr, a->ai_addrlen);
    one.size = a->ai_addrlen;
  }
  ::freeaddrinfo(found);
  return out;
}

/** Shared by the caller and the thread that asks; whoever is last frees it. */
struct question {
  std::mutex guard;
  std::condition_variable answered;
  std::optional<result<std::vector<socket_address>>> answer;
};

}  // namespace

result<std::vector<socket_address>> look_up(const std::string& host, const std::string& port, steady::time_point deadline) {
  if (auto literal = ask(host, port, AI_NUMERICHOST | AI_NUMERICSERV)) return literal;
  auto q = std::make_shared<question>();
  std::thread{[q, host, port] {
    auto answer = ask(host, port, AI_NUMERICSERV | AI_ADDRCONFIG);
    const std::lock_guard lock{q->guard};
    q->answer = std::move(answer);
    q->answered.notify_one();
  }}.detach();
  std::unique_lock lock{q->guard};
  if (!q->answered.wait_until(lock, deadline, [&] { return q->answer.has_value(); }))
    return error{errc::timed_out, fmt::format("the name server did not say in time where {} is", host)};
  return *q->answer;
}

}  // namespace postbus::remote
