#pragma once
#include <sys/socket.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "gateway/gateway.hpp"

namespace postbus::test {

/** Behind the gateway there is a hub and nothing else: posts are published at once. */
class memory_backend final : public gateway::backend {
public:
  explicit memory_backend(bus::hub& h) : hub_{h} {}
  boost::asio::awaitable<result<bus::position>> post(std::string channel, bus::payload_form form, std::string payload) override;
  boost::asio::awaitable<result<bus::position>> listen(std::string channel) override;
  void unlisten(std::string channel) override;
  boost::asio::awaitable<result<std::string>> feed_channel(std::string table) override;
  boost::asio::awaitable<result<std::shared_ptr<const feeds::view>>> open_view(std::string channel, feeds::view_request asked) override;
  bool ready() const override { return true; }
  boost::json::object status() const override { return {}; }

  boost::asio::awaitable<result<streams::page>> read_stream(std::string channel, bus::start from, std::size_t most) override;
  boost::asio::awaitable<result<>> ack(std::string channel, std::string consumer, std::string position) override;

  std::atomic<int> listened{0};
  std::atomic<int> questions{0};  ///< which feed a table's is
  std::atomic<bool> stuck{false};  ///< the database does not answer
  std::atomic<int> waiting{0};     ///< how much waits for it
  std::function<streams::page(bus::start)> kept;  ///< what a stream keeps; empty: there is none

private:
  boost::asio::awaitable<void> answered();
  bus::hub& hub_;
  std::atomic<std::uint64_t> lsn_{1000};
};

/** A real server on a free port of the loopback, run by its own thread until it goes. */
class memory_gateway {
public:
  explicit memory_gateway(gateway::gateway_options options = {}, bus::hub_limits history = {});
  ~memory_gateway();
  std::uint16_t port() const { return server_->port(); }
  gateway::server& server() { return *server_; }
  bus::hub hub;
  memory_backend behind{hub};

private:
  std::unique_ptr<gateway::server> server_;
  std::thread thread_;
};

/** A blocking TCP client with a deadline on every read: five seconds without the awaited bytes throw. */
class raw_client {
public:
  explicit raw_client(std::uint16_t port);
  raw_client(raw_client&& other) noexcept : fd_{std::exchange(other.fd_, -1)}, got_{std::move(other.got_)} {}
  ~raw_client();
  void send(std::string_view bytes);
  /** Reads until `end` has come; returns all up to and including it. */
  std::string read_until(std::string_view end);
  std::string read_bytes(std::size_t count);
  /** Reads until the server closes. */
  std::string read_all();
  /** Opens a WebSocket; the text of the handshake's answer. */
  std::string upgrade(std::string_view target, std::string_view headers = {});
  /** Sends one masked text frame. */
  void send_text(std::string_view payload);
  struct frame {
    int opcode{};
    std::string payload;
    int close_code() const {
      return payload.size() < 2 ? 0 : static_cast<unsigned char>(payload[0]) << 8 | static_cast<unsigned char>(payload[1]);
    }
  };
  frame read_frame();
  int fd() const { return fd_; }

private:
  bool more();
  int fd_{-1};
  std::string got_;
};

}  // namespace postbus::test
