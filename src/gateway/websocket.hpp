#pragma once
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "base/websocket_parser.hpp"

namespace postbus::gateway {

class http_parser;

/** A client's wish to become a WebSocket, already checked. */
struct upgrade {
  std::string accept;        ///< value of Sec-WebSocket-Accept
  bool subprotocol{};        ///< the client offered postbus.v1
};

/** True when the request asks for a WebSocket at all (Upgrade: websocket with Connection: upgrade). */
bool wants_websocket(const http_parser& request);

/**
 * Checks the opening handshake (RFC 6455 section 4.2.1): GET, HTTP/1.1, version 13, a key of 16 bytes, no body. Another
 * version gets errc::upgrade_required: answer it with `Sec-WebSocket-Version: 13`.
 */
result<upgrade> check_upgrade(const http_parser& request);

/** Appends the 101 response. The subprotocol is named only when the client offered it and `with_subprotocol` says that this path speaks it. */
void append_upgrade_response(std::string& out, const upgrade& accepted, bool with_subprotocol);

}  // namespace postbus::gateway
