#pragma once
#include <string>
#include <string_view>

#include "base/result.hpp"

/** The room's own parts. Named for what they talk to, because postbus::client is the public class (include/postbus/client.hpp). */
namespace postbus::remote {

/** Where a gateway answers. */
struct gateway_url {
  bool tls{};
  std::string host;    ///< name or literal address, without brackets
  std::string port;
  std::string prefix;  ///< path in front of /v1/…, without a slash at its end: a gateway behind a proxy

  /** What the Host header carries. */
  std::string authority() const;
  /** For texts: no secret can stand in it. */
  std::string text() const;
};

/** http:// or https:// with a host; errc::invalid_argument for anything else, user names and query strings included. */
result<gateway_url> parse_gateway_url(std::string_view text);

/** `text` with everything but RFC 3986's unreserved characters as %XX: one path segment or one query value. */
std::string percent_encode(std::string_view text);

}  // namespace postbus::remote
