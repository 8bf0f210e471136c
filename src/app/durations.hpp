#pragma once
#include <chrono>
#include <optional>
#include <string_view>

namespace postbus::app {

/** "500ms", "30s", "5m", "2h", and "30" for seconds; at most a year. Nothing for any other text. */
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace postbus::app
