#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::gateway {

struct http_limits {
  std::size_t header_bytes = 16u << 10;            ///< request line and fields
  std::size_t fields = 100;
  std::size_t body_bytes = (16u << 20) + (64u << 10);  ///< a payload of 16 MB and some slack for its wrapping
};

enum class http_method : std::uint8_t { get, head, post, options, other };

/**
 * Reads one HTTP/1.1 request without I/O. Beast does the grammar; this class adds what a server on the open network needs:
 * bounds, and no request that two readers could understand differently (smuggling: both lengths, a doubled length, other
 * codings than chunked, folded fields, bare line feeds, a second Host, an authority other than Host).
 *
 * Use: feed until state() is `complete` or `failed`; bytes beyond the request are not taken (the next request, or the first
 * WebSocket frames). Then `reset` for the next request, or destroy it: a connection that has become a WebSocket or a stream
 * keeps none. Views stay valid until then, wherever the parser itself is moved.
 *
 * Thread safety: none; one owner.
 */
class http_parser {
public:
  enum class stage : std::uint8_t {
    need_more,   ///< inside the header
    body,        ///< the header is known (method, target, fields may be read), the body is not whole yet
    complete,
    failed,      ///< see error(); answer it and close the connection
  };

  /** Memory is taken at the first byte fed. */
  explicit http_parser(const http_limits& limits = {});
  http_parser(http_parser&&) noexcept;
  http_parser& operator=(http_parser&&) noexcept;
  ~http_parser();

  /** Takes bytes and returns how many. Fewer than given only when the request is complete or failed. */
  std::size_t feed(std::string_view bytes);
  stage state() const;
  /** Why it failed; errc gives the status (400, 413, 417, 431, 501, 505). */
  const error& failure() const;
  /** True once any byte of the request has come: a connection closed before that was merely idle. */
  bool started() const;
  /** True when the client waits for `100 Continue` before it sends its body. Ask when state() is `body`; true once. */
  bool take_wants_continue();

  // From `body` on.
  http_method method() const;
  std::string_view method_text() const;
  /** Path and query as sent, always beginning with '/'; "*" for OPTIONS *. An absolute form is stripped to its path. */
  std::string_view target() const;
  /** 10 or 11. */
  int version() const;
  bool keep_alive() const;
  /** The first field of that name, without surrounding blanks. `name` in lower case. */
  std::optional<std::string_view> header(std::string_view name) const;
  /** True when a comma-separated list field (Connection, Upgrade, Sec-WebSocket-Protocol, …), over all its lines, holds `token`; case-insensitive. */
  bool header_has(std::string_view name, std::string_view token) const;
  /** How many fields of that name there are. */
  std::size_t header_count(std::string_view name) const;

  // When complete.
  std::string_view body() const;
  std::string take_body();

  /** Ready for the next request; keeps the header buffer's memory. */
  void reset();

private:
  struct state_data;
  http_limits limits_;
  std::unique_ptr<state_data> state_;
};

}  // namespace postbus::gateway
