#pragma once
#include <string>
#include <string_view>

namespace postbus {

/** Appends `text` (UTF-8) to `out` as a JSON string with its quotes; control bytes, quotes and backslashes escaped, nothing else. */
void append_json_string(std::string& out, std::string_view text);

/** True when `text` is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF). */
bool is_utf8(std::string_view text);

/** True when `text` is exactly one JSON value (RFC 8259), blanks around it allowed; nested up to 5,000 deep. UTF-8 is not checked: see is_utf8. */
bool is_json(std::string_view text);

}  // namespace postbus
