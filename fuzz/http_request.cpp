// Any bytes as an HTTP request, whole and in pieces of the first byte's size: both ways end the same, with the same request,
// and leave the same bytes.
#include <cstdlib>
#include <string>
#include <tuple>

#include "gateway/http_parser.hpp"
#include "gateway/origin.hpp"
#include "gateway/target.hpp"
#include "gateway/websocket.hpp"

namespace gateway = postbus::gateway;

namespace {

using stage = gateway::http_parser::stage;
using outcome = std::tuple<stage, std::size_t, std::string, std::string, int>;

outcome run(std::string_view bytes, std::size_t piece) {
  gateway::http_limits limits;
  limits.header_bytes = 300;
  limits.fields = 6;
  limits.body_bytes = 100;
  gateway::http_parser parser{limits};
  std::size_t used = 0;
  while (used < bytes.size()) {
    const std::string part{bytes.substr(used, piece)};
    const auto taken = parser.feed(part);
    if (taken > part.size()) std::abort();
    used += taken;
    if (taken < part.size()) break;
    if (parser.state() == stage::complete || parser.state() == stage::failed) break;
  }
  if (parser.state() == stage::failed) {
    if (parser.failure().text.empty()) std::abort();
    return {stage::failed, 0, "", "", static_cast<int>(parser.failure().code)};
  }
  if (parser.state() != stage::complete) return {parser.state(), used, "", "", 0};
  if (parser.body().size() > limits.body_bytes) std::abort();
  if (!parser.target().starts_with('/') && parser.target() != "*") std::abort();
  (void)gateway::target::parse(parser.target());
  (void)gateway::check_upgrade(parser);
  (void)gateway::check_caller({}, {parser.header("host"), parser.header("origin"), parser.header("sec-fetch-site")});
  return {stage::complete, used, std::string{parser.target()}, std::string{parser.body()},
          parser.version() * 2 + (parser.keep_alive() ? 1 : 0)};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes{reinterpret_cast<const char*>(data) + 1, size - 1};
  if (run(bytes, size) != run(bytes, data[0] % 64u + 1)) std::abort();
  return 0;
}
