#include "driver/subscriber.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "driver/clock.hpp"
#include "driver/sockets.hpp"

namespace bench {

namespace {

constexpr std::size_t read_size = 256 * 1024;

std::string numbered(const std::string& path, std::size_t number) {
  const auto at = path.find("{}");
  return at == std::string::npos ? path : path.substr(0, at) + std::to_string(number) + path.substr(at + 2);
}

}  // namespace

subscribers::subscribers(options chosen) : options_{std::move(chosen)}, events_(512), buffer_(marker_size + read_size) {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) fail_errno("epoll_create1");
}

subscribers::~subscribers() {
  disconnect();
  close(epoll_);
}

void subscribers::disconnect() {
  for (const auto& c : connections_) close(c.fd);
  connections_.clear();
  heads_.clear();
}

void subscribers::add_publisher(int fd) {
  epoll_event wanted{.events = EPOLLIN | EPOLLOUT | EPOLLET, .data = {.u64 = publisher_index}};
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &wanted) != 0) fail_errno("epoll_ctl");
}

void subscribers::begin() {
  const auto index = connections_.size();
  auto& made = connections_.emplace_back();
  made.fd = connect_begin(options_.target);
  epoll_event wanted{.events = EPOLLIN | EPOLLOUT | EPOLLET, .data = {.u64 = index}};
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, made.fd, &wanted) != 0) fail_errno("epoll_ctl");
}

// Takes a connection further in its opening; true once it is open.
bool subscribers::progress(std::size_t index) {
  auto& c = connections_[index];
  if (!c.asked) {
    int problem = 0;
    socklen_t size = sizeof problem;
    getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &problem, &size);
    if (problem != 0) {
      errno = problem;
      fail_errno(fmt::format("subscriber {} cannot connect", index));
    }
    const auto path = numbered(options_.path, index);
    std::string request = "S";
    if (options_.speaks == protocol::websocket) request = websocket_request(path, options_.host);
    if (options_.speaks == protocol::stream || options_.speaks == protocol::wait) {
      request = fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", path, options_.host,
                            options_.speaks == protocol::stream ? "Accept: text/event-stream\r\n" : "");
    }
    const auto sent = send(c.fd, request.data(), request.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return false;
    if (sent != static_cast<ssize_t>(request.size())) fail_errno(fmt::format("subscriber {} cannot ask", index));
    c.asked = true;
    if (options_.speaks == protocol::wait) return c.open = true;
  }
  while (read(index)) {
    auto& head = heads_[index];
    head.append(begin_, length_);
    if (options_.speaks == protocol::raw) {
      c.open = !head.empty();
    } else if (const auto end = head.find("\r\n\r\n"); end != std::string::npos) {
      const auto* wanted = options_.speaks == protocol::websocket ? "HTTP/1.1 101" : "HTTP/1.1 200";
      if (!head.starts_with(wanted)) throw failure{fmt::format("subscriber {} was refused: {}", index, head.substr(0, 300))};
      c.open = true;
    }
    if (c.open) {
      heads_.erase(index);
      return true;
    }
  }
  return false;
}

double subscribers::connect(std::size_t count) {
  const auto wanted = connections_.size() + count;
  connections_.reserve(wanted);
  std::size_t opened = connections_.size();
  const auto start = now_ns();
  auto moved = start;
  while (opened < wanted) {
    while (connections_.size() < wanted && connections_.size() - opened < options_.opening) begin();
    const int ready = wait(1'000'000'000);
    for (int i = 0; i < ready; ++i) {
      const auto index = events_[static_cast<std::size_t>(i)].data.u64;
      if (index == publisher_index || connections_[index].open) continue;
      if (progress(index)) {
        ++opened;
        moved = now_ns();
      }
    }
    if (now_ns() - moved > 15'000'000'000)
      throw failure{fmt::format("{} of {} subscribers are open after 15 s without progress", opened, wanted)};
  }
  const auto end = now_ns();
  // From here on only what can be read matters.
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    epoll_event reading{.events = EPOLLIN | EPOLLET, .data = {.u64 = i}};
    if (epoll_ctl(epoll_, EPOLL_CTL_MOD, connections_[i].fd, &reading) != 0) fail_errno("epoll_ctl");
  }
  return static_cast<double>(end - start) / 1e9;
}

int subscribers::wait(std::int64_t wait_ns) {
  const timespec timeout{.tv_sec = wait_ns / 1'000'000'000, .tv_nsec = wait_ns % 1'000'000'000};
  const int ready = epoll_pwait2(epoll_, events_.data(), static_cast<int>(events_.size()), &timeout, nullptr);
  if (ready < 0 && errno != EINTR) fail_errno("epoll_pwait2");
  return ready < 0 ? 0 : ready;
}

bool subscribers::read(std::size_t index) {
  auto& c = connections_[index];
  auto* const into = buffer_.data() + marker_size;
  const auto got = recv(c.fd, into, read_size, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got <= 0) throw failure{fmt::format("the server closed subscriber {} of {}", index, connections_.size())};
  received_ = now_ns();
  more_ = static_cast<std::size_t>(got) == read_size;
  std::memcpy(into - c.left.size, c.left.bytes, c.left.size);
  begin_ = into - c.left.size;
  length_ = static_cast<std::size_t>(got) + c.left.size;
  return true;
}

void subscribers::answer_ping(std::size_t index) {
  if (options_.speaks != protocol::websocket || length_ < 2 || static_cast<unsigned char>(begin_[0]) != 0x89) return;
  const auto size = static_cast<unsigned char>(begin_[1]);
  if (size > 125 || length_ != 2u + size) return;
  std::string pong;
  append_client_frame(pong, 10, {begin_ + 2, size});
  send_all(connections_[index].fd, pong);
}

}  // namespace bench
