#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace postbus::remote {

/**
 * Takes the bytes of one HTTP/1.1 response as they come (RFC 9112). No I/O. Knows the three ways a body ends: its
 * length, chunks, and the end of the connection. A 101 has no body: what follows it is `leftover()`.
 */
class http_response {
public:
  static constexpr std::size_t max_head_bytes = 64 * 1024;
  static constexpr std::size_t max_body_bytes = 64u << 20;

  explicit http_response(std::size_t body_limit = max_body_bytes) : body_limit_{body_limit} {}

  /** True once the response is complete. errc::protocol for bytes that are not HTTP, errc::too_large past a limit. */
  result<bool> feed(std::string_view bytes);
  /** The peer has closed: completes a body of unknown length; errc::protocol for any other. */
  result<> end();

  bool complete() const { return stage_ == stage::done; }
  /** Any byte has been seen. */
  bool begun() const { return begun_; }
  int status() const { return status_; }
  /** The first field of that name, in any case; empty when there is none. Valid while the response lives. */
  std::string_view field(std::string_view name) const;
  const std::string& body() const { return body_; }
  /** Bytes after the response, to be read by whatever the connection has become. */
  const std::string& leftover() const { return buffer_; }
  /** The connection may carry another request. */
  bool keeps_alive() const { return keep_alive_; }

private:
  enum class stage { head, sized, chunk_size, chunk_data, chunk_end, trailers, until_close, done };
  result<> parse_head(std::string_view head);
  result<> take_chunk_size(std::string_view line);
  std::optional<std::string> take_line();

  stage stage_{stage::head};
  std::size_t body_limit_;
  std::size_t left_{};
  std::string buffer_;
  std::string body_;
  std::vector<std::pair<std::string, std::string>> fields_;
  int status_{};
  bool begun_{};
  bool keep_alive_{true};
};

/** What a refused request means: the problem document's own words where the body is one (RFC 9457), else the status. */
error problem_of(const http_response& answer);

}  // namespace postbus::remote
