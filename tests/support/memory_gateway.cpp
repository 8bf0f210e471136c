#include "support/memory_gateway.hpp"

#include <netinet/in.h>
#include <sys/time.h>
#include <unistd.h>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <stdexcept>
#include <system_error>

#include "base/bytes.hpp"
#include "base/websocket_frame.hpp"
#include "feeds/feed_name.hpp"

namespace postbus::test {

boost::asio::awaitable<void> memory_backend::answered() {
  ++waiting;
  boost::asio::steady_timer again{co_await boost::asio::this_coro::executor};
  while (stuck.load()) {
    again.expires_after(std::chrono::milliseconds{1});
    co_await again.async_wait(boost::asio::use_awaitable);
  }
  --waiting;
}

boost::asio::awaitable<result<streams::page>> memory_backend::read_stream(std::string, bus::start from, std::size_t) {
  co_await answered();
  if (kept) co_return kept(std::move(from));
  co_return error{errc::not_found, "there are no streams without a database"};
}

boost::asio::awaitable<result<>> memory_backend::ack(std::string, std::string, std::string) {
  co_await answered();
  co_return result<>{};
}

boost::asio::awaitable<result<bus::position>> memory_backend::post(std::string channel, bus::payload_form form, std::string payload) {
  co_await answered();
  const bus::position at{hub_.head().epoch, ++lsn_, 0};
  auto one = std::make_shared<bus::batch>();
  one->add(channel, bus::kind::message, form, payload, at, now_micros());
  hub_.publish(std::move(one));
  co_return bus::position{at.epoch, at.lsn, bus::position::end_of_commit};
}

boost::asio::awaitable<result<bus::position>> memory_backend::listen(std::string) {
  ++listened;
  co_return hub_.head();
}

void memory_backend::unlisten(std::string) { --listened; }

boost::asio::awaitable<result<std::string>> memory_backend::feed_channel(std::string table) {
  ++questions;
  if (table == "orders" || table == "public.orders") co_return "table:public.orders";
  co_return feeds::not_watched(table);
}

boost::asio::awaitable<result<std::shared_ptr<const feeds::view>>> memory_backend::open_view(std::string, feeds::view_request asked) {
  if (const auto written = feeds::parse_filter(asked.where); !written) co_return written.error();
  co_return error{errc::unsupported, "there are no tables without a database"};
}

memory_gateway::memory_gateway(gateway::gateway_options options, bus::hub_limits history) : hub{history} {
  hub.begin({0x5f3a9c01, 1000, 0});
  options.port = 0;
  server_ = std::make_unique<gateway::server>(hub, behind, std::move(options));
  if (auto open = server_->listen(); !open) throw std::runtime_error(open.error().text);
  thread_ = std::thread{[this] { server_->run(); }};
}

memory_gateway::~memory_gateway() {
  server_->stop();
  thread_.join();
}

raw_client::raw_client(std::uint16_t port) : fd_{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{5, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) throw std::system_error{errno, std::generic_category(), "connect"};
}

raw_client::~raw_client() {
  if (fd_ >= 0) ::close(fd_);
}

void raw_client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) throw std::system_error{errno, std::generic_category(), "send"};
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

bool raw_client::more() {
  char buffer[65536];
  const auto count = ::recv(fd_, buffer, sizeof buffer, 0);
  if (count < 0) throw std::system_error{errno, std::generic_category(), "recv, after: " + got_.substr(0, 500)};
  got_.append(buffer, static_cast<std::size_t>(count));
  return count > 0;
}

std::string raw_client::read_until(std::string_view end) {
  for (;;) {
    if (const auto found = got_.find(end); found != std::string::npos) {
      auto taken = got_.substr(0, found + end.size());
      got_.erase(0, found + end.size());
      return taken;
    }
    if (!more()) throw std::runtime_error("closed, after: " + got_);
  }
}

std::string raw_client::read_bytes(std::size_t count) {
  while (got_.size() < count)
    if (!more()) throw std::runtime_error("closed, after: " + got_);
  auto taken = got_.substr(0, count);
  got_.erase(0, count);
  return taken;
}

std::string raw_client::read_all() {
  while (more()) {
  }
  return std::exchange(got_, {});
}

std::string raw_client::upgrade(std::string_view target, std::string_view headers) {
  send("GET " + std::string{target} +
       " HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
       std::string{headers} + "\r\n");
  return read_until("\r\n\r\n");
}

void raw_client::send_text(std::string_view payload) {
  std::string frame;
  websocket::append_masked_frame(frame, websocket::opcode::text, payload, 0x12345678);
  send(frame);
}

raw_client::frame raw_client::read_frame() {
  const auto head = read_bytes(2);
  frame f{head[0] & 0x0f, {}};
  std::uint64_t size = static_cast<unsigned char>(head[1]) & 0x7f;
  if (size == 126) size = load_big<std::uint16_t>(read_bytes(2).data());
  if (size == 127) size = load_big<std::uint64_t>(read_bytes(8).data());
  f.payload = read_bytes(size);
  return f;
}

}  // namespace postbus::test
