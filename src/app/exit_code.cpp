#include "app/exit_code.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "app/terminal.hpp"
#include "postgres/server_error.hpp"

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
  const std::string_view hint = why.code == errc::unauthorised ? "; commands take it from POSTBUS_TOKEN" : "";
  const auto code = tell(status_of(why.code), fmt::format("{}{}", why.text, hint));
  // What Postbus's own SQL says stands in the text already.
  if (!why.detail.empty() && !postgres::raised_by_us(postgres::sqlstate(why))) fmt::print(stderr, "  {}\n", why.detail);
  return code;
}

}  // namespace postbus::app
