#pragma once
#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.hpp"
#include "bus/hub.hpp"
#include "gateway/backend.hpp"
#include "gateway/origin.hpp"
#include "gateway/tls.hpp"
#include "gateway/tokens.hpp"

namespace postbus::gateway {

struct gateway_limits {
  std::size_t max_message = 16u << 20;             ///< bytes of one payload
  std::size_t max_lag = 16u << 20;                 ///< bytes a reader may be behind, beside the event it is reading, before 4001
  std::size_t max_retained = 256u << 20;           ///< bytes one loop keeps for readers that lag, over all channels
  std::size_t max_bodies = 256u << 20;             ///< bytes of request bodies and WebSocket messages one loop holds at once
  std::size_t max_subscriptions = 1024;            ///< on one /v1/ws or /v1/events
  std::size_t beside_reader = 64;                  ///< connections that loop 0 takes before the other loops accept any
  std::chrono::milliseconds header_deadline{10'000};  ///< from the first byte of a request to the end of its header; of a TLS handshake
  std::chrono::milliseconds body_deadline{60'000};    ///< from there to the end of its body; of a WebSocket's message
  std::chrono::milliseconds tables_deadline{10'000};  ///< for a stream's tables to be read for a long poll that gives less
  std::chrono::milliseconds idle_deadline{75'000};    ///< a kept-alive connection without a request
  std::chrono::milliseconds ping_every{25'000};       ///< on quiet WebSockets and SSE streams; a silent WebSocket is closed after two
  std::chrono::milliseconds stall_deadline{30'000};   ///< a full socket that takes nothing
  std::chrono::milliseconds drain_deadline{10'000};   ///< from SIGTERM to closing what is left
};

struct gateway_options {
  std::string address{"127.0.0.1"};
  std::uint16_t port{7432};
  unsigned threads{1};
  std::shared_ptr<const tls_context> tls;      ///< null: plain HTTP
  std::shared_ptr<const token_set> tokens;     ///< null: no tokens (loopback only)
  origin_policy origins;
  gateway_limits limits;
  std::string version;
  bool demo{};
};

/**
 * The server: HTTP, WebSocket, SSE and long poll in front of a hub. One loop per thread, each with its own connections.
 * Made and run on one thread, which becomes loop 0; the database side shares that loop's executor.
 */
class server {
public:
  server(bus::hub& hub, backend& behind, gateway_options options);
  ~server();

  /** Opens the listening socket. errc::conflict when the port is in use, with the fix. */
  result<> listen();
  /** The port in use once listen() returned. */
  std::uint16_t port() const;
  /** Loop 0's executor. */
  boost::asio::any_io_executor executor();
  /** Runs until stop() has drained every loop. */
  void run();
  /** Stops accepting, tells clients to come back, finishes what is under way, then ends run(). Any thread. */
  void stop();
  /** After run(): runs what the database side still has to do on loop 0's executor, until `done` or the time is up. */
  void finish(const std::function<bool()>& done, std::chrono::milliseconds at_most);
  /** Replaces the tokens or the certificate (SIGHUP): sessions of revoked tokens are closed with 4401, of narrowed ones with 4403. Any thread. */
  void replace_tokens(std::shared_ptr<const token_set> tokens);
  void replace_tls(std::shared_ptr<const tls_context> tls);

  struct shared;  ///< what the loops share; see gateway/loop.hpp

private:
  std::unique_ptr<shared> shared_;
};

}  // namespace postbus::gateway
