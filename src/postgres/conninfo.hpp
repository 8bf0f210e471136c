#pragma once
#include <libpq-fe.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "postgres/connection.hpp"

namespace postbus::postgres {

/** libpq's connection keywords and their values. Holds secrets: never logged. */
class conninfo {
public:
  conninfo() = default;
  /** Our defaults, then what the URL says, then what Postbus needs. errc::invalid_argument for a malformed URL. */
  static result<conninfo> from(const connect_options& options);

  void set(std::string_view key, std::string value);
  std::string_view get(std::string_view key) const;
  /** Host names that libpq would resolve in start(), blocking its caller; empty where addresses or sockets are given. */
  std::vector<std::string> unresolved() const;
  /** The addresses of such names: each takes the place of its name in the list of hosts, which keeps the name for TLS and .pgpass. */
  void use_addresses(const std::map<std::string, std::vector<std::string>, std::less<>>& found);
  /** PQconnectStartParams. */
  PGconn* start() const;

private:
  std::vector<std::pair<std::string, std::string>> list_;
};

}  // namespace postbus::postgres
