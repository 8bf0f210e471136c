#pragma once
#include <libpq-fe.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "postgres/connection.hpp"

namespace postbus::postgres {

/** libpq's connection keywords and their values. Holds secrets: never logged. */
class conninfo {
public:
  /** Our defaults, then what the URL says, then what Postbus needs. errc::invalid_argument for a malformed URL. */
  static result<conninfo> from(const connect_options& options);

  void set(std::string_view key, std::string value);
  std::string_view get(std::string_view key) const;
  /** PQconnectStartParams; blocks while libpq resolves a host name. */
  PGconn* start() const;

private:
  std::vector<std::pair<std::string, std::string>> list_;
};

}  // namespace postbus::postgres
