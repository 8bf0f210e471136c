// Any bytes as a request target: what is accepted is UTF-8, and encoding its segments gives a target that says the same.
#include "gateway/target.hpp"

#include <cstdlib>

#include "base/json_text.hpp"

namespace gateway = postbus::gateway;

namespace {

void append_encoded(std::string& out, std::string_view text) {
  constexpr std::string_view hex = "0123456789ABCDEF";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += '%';
    out += hex[byte >> 4];
    out += hex[byte & 15];
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string raw{reinterpret_cast<const char*>(data), size};
  const auto parsed = gateway::target::parse(raw);
  (void)gateway::parse_duration(raw);
  if (!parsed) return 0;
  std::string again;
  for (const auto& segment : parsed->segments()) {
    if (!postbus::is_utf8(segment) || segment.contains('\0')) std::abort();
    again += '/';
    append_encoded(again, segment);
  }
  const auto second = gateway::target::parse(again.empty() ? "/" : again);
  if (!second || (second->segments() != parsed->segments() && again != "/")) std::abort();
  for (const auto* name : {"channel", "after", "wait", "format"}) {
    const auto all = parsed->all(name);
    const auto one = parsed->one(name);
    if (one.has_value() != (all.size() <= 1)) std::abort();
    if (one && one->has_value() && **one != all.front()) std::abort();
  }
  (void)parsed->duration("wait", {}, std::chrono::minutes{5});
  (void)parsed->start();
  (void)parsed->format(gateway::wire_format::event);
  (void)parsed->flag("loop");
  (void)parsed->only({"channel"});
  return 0;
}
