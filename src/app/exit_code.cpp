#include "app/exit_code.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "app/terminal.hpp"

namespace postbus::app {

exit_code tell(exit_code code, std::string_view text) {
  const terminal to{stderr};
  fmt::print(stderr, "{}: {}\n", to.paint(style::bad, "postbus"), text);
  return code;
}

exit_code status_of(errc code) {
  if (code == errc::timed_out) return exit_timed_out;
  return code == errc::invalid_channel || code == errc::invalid_position ? exit_usage : exit_failed;
}

exit_code tell(const error& why) {
  const auto code = tell(status_of(why.code), why.text);
  // What Postbus's own SQL says (SQLSTATE PB…) stands in the text already.
  if (!why.detail.empty() && !why.detail.starts_with("[PB")) fmt::print(stderr, "  {}\n", why.detail);
  return code;
}

}  // namespace postbus::app
