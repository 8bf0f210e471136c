// First line a pattern, second a name: the one-pass matcher agrees with a naive one. The whole as a tokens file: no crash, and
// what is accepted can be asked.
#include <cstdlib>

#include "gateway/tokens.hpp"

namespace gateway = postbus::gateway;

namespace {

bool separates(char c) { return c == ':' || c == '.'; }

/** The definition, by trying everything. */
bool naive(std::string_view pattern, std::string_view name) {
  if (pattern == "**") return true;
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*') return naive(pattern.substr(1), name) || (!name.empty() && !separates(name[0]) && naive(pattern, name.substr(1)));
  return !name.empty() && pattern[0] == name[0] && naive(pattern.substr(1), name.substr(1));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  const auto end = text.find('\n');
  if (end != std::string_view::npos && size < 40) {
    const auto name = text.substr(end + 1);
    if (const auto pattern = gateway::grant_pattern::parse(text.substr(0, end));
        pattern && pattern->matches(name) != naive(pattern->text(), name))
      std::abort();
  }
  if (const auto set = gateway::token_set::parse(text)) {
    for (const auto& token : (*set)->tokens()) {
      if ((*set)->find(token.digest) != &token) std::abort();
      for (const auto what : {gateway::right::listen, gateway::right::post, gateway::right::work, gateway::right::read})
        (void)token.may(what, "table:public.orders");
    }
  } else if (set.error().text.empty()) {
    std::abort();
  }
  return 0;
}
