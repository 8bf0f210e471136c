#pragma once
#include <boost/asio/any_io_executor.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace postbus::testing_support {

/**
 * A TCP relay on 127.0.0.1 in front of a server on 127.0.0.1, for network faults. Lives on one executor and must be
 * destroyed only when that has stopped running.
 */
class proxy {
public:
  proxy(boost::asio::any_io_executor executor, std::uint16_t server);
  ~proxy();

  std::uint16_t port() const;
  /** From now on no byte passes through the open connections, and nobody is told: they are half-open. New ones work. */
  void freeze();
  /** New connections are accepted, and no byte passes through them. */
  void freeze_new();
  /** Cuts the connection in which the `n`th reply (a read from the server, counted over all connections) arrives, before passing it on. */
  void cut_at_reply(std::size_t n);
  std::size_t replies() const;
  std::size_t connections() const;

private:
  struct impl;
  std::shared_ptr<impl> impl_;
};

}  // namespace postbus::testing_support
