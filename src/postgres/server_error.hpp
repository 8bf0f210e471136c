#pragma once
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::postgres {

/** The parts of a server's ErrorResponse that we use (manual, "Error and Notice Message Fields"). */
struct server_message {
  std::string_view severity;  ///< not localised: ERROR, FATAL, PANIC
  std::string_view sqlstate;
  std::string_view primary;
  std::string_view detail;
  std::string_view hint;
};

/**
 * A refused statement as errc::database; with severity FATAL or PANIC, which end the session, as errc::unavailable.
 * `text` names the fix where the SQLSTATE tells it. Only messages that Postbus's own SQL raises (SQLSTATE PB… or 22023)
 * are repeated in `text`; every other word of the server stands in `detail`, behind its SQLSTATE in brackets.
 */
error from_server(const server_message& message);

/**
 * The same error with the code that its SQLSTATE deserves where the statement was made from a client's request: a channel
 * or payload our SQL refuses, text that is not UTF-8 or not JSON, a database that cannot at the moment. Others as they are.
 */
error for_client(error e);

/**
 * A login that failed, from libpq's message at PQERRORS_VERBOSE ("… failed: FATAL:  28P01: password …"; libpq keeps no fields
 * of it): errc::unavailable, of the last server that answered. Without a SQLSTATE in it nothing answered.
 */
error from_failed_login(std::string_view message);

/** True for the SQLSTATEs (PB… and 22023) that Postbus's own SQL raises. */
bool raised_by_us(std::string_view sqlstate);

/** The SQLSTATE of an error made by from_server or from_failed_login ("42501"), else "". A view into `e`. */
std::string_view sqlstate(const error& e);

}  // namespace postbus::postgres
