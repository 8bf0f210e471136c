#pragma once

#include "base/result.hpp"

namespace postbus::app {

/** The program's exit statuses (docs/cli.md). */
enum exit_code : int {
  exit_ok = 0,
  exit_failed = 1,         ///< the operation failed; stderr says why and what to do
  exit_usage = 2,          ///< the command line makes no sense
  exit_nothing_there = 3,  ///< no gateway or database to attach to; stderr says how to name or start one
  exit_timed_out = 4,
};

/** The status for an expected failure: a malformed name or position is a wrong usage. */
exit_code status_of(errc code);

/** Tells stderr what went wrong, the private detail included: it is the operator's own command line. Returns the exit status. */
exit_code tell(const error& why);
exit_code tell(exit_code code, std::string_view text);

}  // namespace postbus::app
