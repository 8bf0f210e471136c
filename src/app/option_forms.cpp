#include "app/option_forms.hpp"

#include <charconv>
#include <cstdint>
#include <limits>

#include "app/durations.hpp"
#include "bus/channel.hpp"
#include "feeds/filter.hpp"

namespace postbus::app {
namespace {

template <class Number>
bool is_whole(const std::string& text, Number least) {
  Number value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  return ec == std::errc{} && end == text.data() + text.size() && value >= least;
}

}  // namespace

std::string check_duration(const std::string& text) {
  return parse_duration(text) ? std::string{} : text + " is no duration; it looks like 500ms, 30s or 5m";
}

std::string check_consumer(const std::string& text) {
  return bus::check_channel(text) ? std::string{} : "a consumer's name has 1 to 255 bytes and no control characters";
}

std::string check_filter(const std::string& text) {
  const auto given = feeds::check_given(text);
  return given ? std::string{} : given.error().text;
}

std::string check_count(const std::string& text) {
  if (is_whole(text, std::int64_t{1})) return {};
  return text + " is no count; it is a whole number from 1 to " + std::to_string(std::numeric_limits<std::int64_t>::max());
}

std::string check_port(const std::string& text) {
  return is_whole(text, std::uint16_t{0}) ? std::string{} : text + " is no port; it is a number from 0 to 65535, and 0 takes a free one";
}

std::string check_given(const std::string& text) { return text.empty() ? "it is empty: give it a value, or leave it out" : std::string{}; }

}  // namespace postbus::app
