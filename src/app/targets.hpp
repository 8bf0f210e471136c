#pragma once
#include <string>

#include "app/exit_code.hpp"
#include "base/result.hpp"
#include "postbus/client.hpp"

namespace postbus::app {

/** Whom the command line, the environment and the configuration file name. Secrets: never printed. */
struct targets {
  std::string database;         ///< libpq URL or keyword form; empty: not named
  std::string database_direct;  ///< empty: the same
  std::string gateway;          ///< http(s) URL; empty: not named
  bool gateway_first{};         ///< the gateway was named by a flag and the database was not: what can go either way takes it
  std::string token;
  std::string ca_file;
  std::string data;             ///< the data folder whose running `serve` is attached to when nothing is named
};

/**
 * The database a command works on: the one named, else that of the `serve` that runs on the data folder. errc::not_found
 * (exit status 3) with what to do when there is none.
 */
result<std::string> database_of(const targets& at);

/** The gateway a command talks to, found in the same way. A database alone is not enough: only a gateway can listen. */
result<std::string> gateway_of(const targets& at);

/** A client of that gateway. */
client connect_client(const targets& at, const std::string& gateway);

/** As tell(error), with exit status 3 for errc::not_found: what database_of and gateway_of fail with. */
exit_code tell_unattached(const error& why);
/** What the client library threw. */
exit_code tell(const request_error& why);

}  // namespace postbus::app
