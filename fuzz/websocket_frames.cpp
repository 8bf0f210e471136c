// Any bytes as WebSocket frames, whole and in pieces: both ways give the same items, text is UTF-8, messages keep the limit,
// and nothing is held once everything has been handed out. First byte: role; second: limit; third: size of the pieces.
#include <cstdlib>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/json_text.hpp"
#include "base/websocket_parser.hpp"

namespace ws = postbus::websocket;

namespace {

using found = std::tuple<ws::item::what, std::uint16_t, std::string>;

std::vector<found> run(ws::role role, std::uint32_t limit, std::string_view bytes, std::size_t piece) {
  ws::parser parser{role, limit};
  std::vector<found> items;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    const auto part = bytes.substr(at, piece);
    std::vector<char> copy{part.begin(), part.end()};
    std::span<char> input{copy};
    for (;;) {
      const auto item = parser.next(input);
      if (item.is == ws::item::what::need_more) break;
      if (item.is == ws::item::what::text && !postbus::is_utf8(item.payload)) std::abort();
      if ((item.is == ws::item::what::text || item.is == ws::item::what::binary) && item.payload.size() > limit) std::abort();
      if (item.is == ws::item::what::close && item.code != ws::close_code::none && !ws::is_sendable_close_code(item.code)) std::abort();
      if (item.is == ws::item::what::broken && (item.payload.empty() || item.payload.size() > ws::max_reason_bytes)) std::abort();
      items.emplace_back(item.is, item.code, item.is == ws::item::what::broken ? "" : std::string{item.payload});
    }
    if (!input.empty()) std::abort();
  }
  return items;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size < 3) return 0;
  const auto role = (data[0] & 1) != 0 ? ws::role::client : ws::role::server;
  const std::uint32_t limit = data[1] * 16u;
  const std::size_t piece = data[2] % 32u + 1;
  const std::string_view bytes{reinterpret_cast<const char*>(data) + 3, size - 3};
  if (run(role, limit, bytes, size) != run(role, limit, bytes, piece)) std::abort();
  return 0;
}
