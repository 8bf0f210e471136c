// Any text as the value of any known type: what is written is one JSON value. (json and jsonb are embedded as they are, and
// the server has checked them, so they are left out.)
#include "feeds/value_type.hpp"

#include <cstdlib>

#include "base/json_text.hpp"

namespace feeds = postbus::feeds;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const feeds::type_table types = [] {
    feeds::type_table made;
    made.add({{.type = 20'000, .base = 0, .element = 0, .attributes = {{"x", 23}, {"t", 25}, {"again", 20'001}}},
              {.type = 20'001, .base = 0, .element = 20'000, .attributes = {}}},
             {20'000});
    return made;
  }();
  // Numbers and booleans are the server's own words; an array of text has all of the syntax.
  static constexpr feeds::oid chosen[] = {25, 1114, 1184, 1009, 1020, 20'000, 20'001};
  if (size == 0) return 0;
  std::string text{reinterpret_cast<const char*>(data + 1), size - 1};
  for (auto& c : text)
    if (c >= '0' && c <= '9') c = static_cast<char>('A' + (c - '0'));  // so that the composite's integer cannot be a bad number
  std::string out;
  feeds::append_value(out, *types.find(chosen[data[0] % std::size(chosen)]), text);
  if (!postbus::is_json(out)) std::abort();
  return 0;
}
