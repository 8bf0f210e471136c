#include "app/durations.hpp"

#include <charconv>

namespace postbus::app {

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  constexpr std::int64_t year = 365LL * 24 * 3600 * 1000;
  std::int64_t number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec != std::errc{} || number < 0) return std::nullopt;
  const auto unit = text.substr(static_cast<std::size_t>(end - text.data()));
  const std::int64_t factor = unit == "ms" ? 1 : unit.empty() || unit == "s" ? 1'000 : unit == "m" ? 60'000 : unit == "h" ? 3'600'000 : 0;
  if (factor == 0 || number > year / factor) return std::nullopt;
  return std::chrono::milliseconds{number * factor};
}

}  // namespace postbus::app
