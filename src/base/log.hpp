#pragma once
#include <fmt/format.h>

#include <string_view>

namespace postbus::log {

enum class level { debug, info, warning, error };

/** Configures the process's log (stderr): lowest level shown, and one JSON object per line instead of text. Call once, before threads start. */
void configure(level lowest, bool json);

/** True when a line of this level would be written. */
bool enabled(level at);

/** Writes one line. `room` names the part that speaks ("gateway"). Any thread. Never give it a secret or a client's payload. */
void write(level at, std::string_view room, std::string_view line);

template <class... Args>
void debug(std::string_view room, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level::debug)) write(level::debug, room, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(std::string_view room, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level::info)) write(level::info, room, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(std::string_view room, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level::warning)) write(level::warning, room, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(std::string_view room, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level::error)) write(level::error, room, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace postbus::log
