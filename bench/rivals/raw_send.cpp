// The ceiling of fan-out: no protocol, one thread. Subscribers say "S" and are answered "+"; a publisher says "P" and
// then sends messages of SIZE bytes, and each message is one blocking send() to every subscriber, one after the other.
// Usage: bench_raw_send SIZE; prints the port it listens on.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "driver/sockets.hpp"

namespace {

class server {
public:
  explicit server(std::size_t size) : size_{size}, buffer_(64 * 1024) {
    std::uint16_t port = 0;
    listener_ = bench::listen_on(0, port);
    bench::set_nonblocking(listener_);
    watch(listener_);
    fmt::print("{}\n", port);
    std::fflush(stdout);
  }

  [[noreturn]] void run() {
    std::vector<epoll_event> events(512);
    while (true) {
      const int ready = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
      for (int i = 0; i < ready; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_)
          accept_all();
        else if (fd == publisher_)
          publish();
        else
          greet(fd);
      }
    }
  }

private:
  void watch(int fd) {
    epoll_event wanted{.events = EPOLLIN, .data = {.fd = fd}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &wanted);
  }
  void drop(int fd) {
    std::erase(subscribers_, fd);
    if (fd == publisher_) publisher_ = -1;
    close(fd);
  }
  void accept_all() {
    for (int fd = 0; (fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) watch(fd);
  }
  // The first byte says what a connection is; a later one only that it has ended.
  void greet(int fd) {
    char byte = 0;
    if (recv(fd, &byte, 1, 0) != 1) return drop(fd);
    if (byte == 'P') {
      publisher_ = fd;
      held_ = 0;
    } else {
      subscribers_.push_back(fd);
      bench::send_all(fd, "+");
    }
  }
  void publish() {
    const auto got = recv(publisher_, buffer_.data() + held_, buffer_.size() - held_, 0);
    if (got <= 0) return drop(publisher_);
    held_ += static_cast<std::size_t>(got);
    std::size_t at = 0;
    for (; held_ - at >= size_; at += size_) {
      for (const int fd : subscribers_) send(fd, buffer_.data() + at, size_, MSG_NOSIGNAL);
    }
    std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(at), buffer_.begin() + static_cast<std::ptrdiff_t>(held_), buffer_.begin());
    held_ -= at;
  }

  std::size_t size_;
  int epoll_{epoll_create1(EPOLL_CLOEXEC)};
  int listener_{-1};
  int publisher_{-1};
  std::vector<int> subscribers_;
  std::vector<char> buffer_;
  std::size_t held_{};
};

}  // namespace

int main(int argc, char** argv) {
  try {
    server{argc > 1 ? std::stoul(argv[1]) : 204}.run();
  } catch (const std::exception& problem) {
    fmt::print(stderr, "bench_raw_send: {}\n", problem.what());
    return 1;
  }
}
