#pragma once
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace postbus::postgres {

/** The keywords and values that a URL or keyword string sets, in libpq's order. errc::invalid_argument, without a word of the string, when it is malformed. */
result<std::vector<std::pair<std::string, std::string>>> parse_conninfo(const std::string& text);

/** The keyword form of them (manual, "Keyword/Value Connection Strings"). */
std::string format_conninfo(const std::vector<std::pair<std::string, std::string>>& parts);

}  // namespace postbus::postgres
