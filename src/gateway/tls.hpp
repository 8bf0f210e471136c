#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::gateway {

/**
 * Certificate, key and settings: TLS 1.2 and 1.3, forward-secret AEAD suites, no compression, no renegotiation, ALPN http/1.1,
 * session tickets. Immutable once loaded; streams made from it keep it alive, so a reload (SIGHUP) is a new context for new
 * connections. Any thread.
 */
class tls_context {
public:
  /** PEM files; the certificate file holds the chain, leaf first. errc::invalid_argument names the file and what is wrong with it. */
  static result<std::shared_ptr<const tls_context>> load(const std::filesystem::path& certificate, const std::filesystem::path& key);
  ~tls_context();

  struct native;  ///< the SSL_CTX
  native& handle() const { return *native_; }

private:
  explicit tls_context(std::unique_ptr<native> n);
  std::unique_ptr<native> native_;
};

/** How a read or write ended. */
struct io_outcome {
  enum class what {
    done,         ///< `bytes` were moved, at least one; a write may have taken them (see tls_stream::holds)
    would_block,  ///< wait for the socket; `wants_write()` says for which direction
    closed,       ///< the peer closed in an orderly way (read only)
    failed,       ///< the connection is of no more use; `why()` says why
  };
  what is{};
  std::size_t bytes{};
};

/**
 * The server's end of TLS over a non-blocking socket that the caller owns and polls. The handshake happens inside `read` (and
 * `write`). Writes may be partial. Raises no SIGPIPE. Not thread-safe.
 *
 * A record that is encrypted and does not fit the socket can only be finished, with the same bytes. So a write takes those, and
 * the stream keeps them until the socket has taken them too: what its owner writes next may be anything, and goes behind them.
 */
class tls_stream {
public:
  tls_stream(const tls_context& context, int fd);
  tls_stream(tls_stream&&) noexcept;
  tls_stream& operator=(tls_stream&&) noexcept;
  ~tls_stream();

  io_outcome read(std::span<char> into);
  io_outcome write(std::string_view bytes);
  /** Bytes were taken that the socket has not: call flush() when it takes more. */
  bool holds() const;
  /** Goes on with them; `done` when none are left. */
  io_outcome flush();
  /** Sends close_notify, once, as far as the socket takes it; not within a record. */
  void shutdown();

  bool handshake_done() const;
  /** After would_block: true when the socket must become writable before the same call can go on (also for a read). */
  bool wants_write() const;
  /** Bytes already decrypted: with an edge-triggered or one-shot poll, read again before waiting. */
  bool has_buffered() const;
  /** What failed, for the log. */
  std::string why() const;

private:
  struct native;
  std::unique_ptr<native> native_;
};

}  // namespace postbus::gateway
