#include "gateway/websocket.hpp"

#include "gateway/http_parser.hpp"

namespace postbus::gateway {
namespace {

/** Base64 of 16 bytes: 22 characters and "==", the 22nd with four zero bits. */
bool is_key(std::string_view key) {
  const auto digit = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
  };
  if (key.size() != 24 || !key.ends_with("==")) return false;
  for (const char c : key.substr(0, 22))
    if (!digit(c)) return false;
  return std::string_view{"AQgw"}.contains(key[21]);
}

}  // namespace

bool wants_websocket(const http_parser& request) {
  return request.header_has("upgrade", "websocket") && request.header_has("connection", "upgrade");
}

result<upgrade> check_upgrade(const http_parser& request) {
  if (request.method() != http_method::get) return error{errc::method_not_allowed, "a WebSocket begins with GET"};
  if (request.version() < 11) return error{errc::invalid_argument, "a WebSocket needs HTTP/1.1"};
  if (!wants_websocket(request)) return error{errc::invalid_argument, "a WebSocket needs `Connection: Upgrade` and `Upgrade: websocket`"};
  if (request.header_count("sec-websocket-version") != 1 || request.header("sec-websocket-version") != "13")
    return error{errc::upgrade_required, "this server speaks WebSocket version 13"};
  const auto key = request.header("sec-websocket-key");
  if (!key || request.header_count("sec-websocket-key") != 1 || !is_key(*key))
    return error{errc::invalid_argument, "Sec-WebSocket-Key must be given once, the base64 form of 16 bytes"};
  if (!request.body().empty()) return error{errc::invalid_argument, "a WebSocket's opening request has no body"};
  return upgrade{websocket::accept_key(*key), request.header_has("sec-websocket-protocol", websocket::subprotocol)};
}

void append_upgrade_response(std::string& out, const upgrade& accepted, bool with_subprotocol) {
  out += "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
  out += accepted.accept;
  if (with_subprotocol && accepted.subprotocol) {
    out += "\r\nSec-WebSocket-Protocol: ";
    out += websocket::subprotocol;
  }
  out += "\r\n\r\n";
}

}  // namespace postbus::gateway
