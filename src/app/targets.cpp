#include "app/targets.hpp"

#include "client/problem.hpp"
#include "postgres/data_folder.hpp"

namespace postbus::app {
result<std::string> database_of(const targets& at) {
  if (!at.database.empty()) return at.database;
  if (!at.gateway.empty())
    return error{errc::not_found,
                 "this command works on the database itself, and only a gateway was named: give the database by --db URL or POSTBUS_DB"};
  auto found = postgres::read_attachment(at.data);
  if (!found) return found.error();
  return std::move(found->url);
}

result<std::string> gateway_of(const targets& at) {
  if (!at.gateway.empty()) return at.gateway;
  if (!at.database.empty())
    return error{errc::not_found,
                 "this command talks to a gateway, and only a database was named: start `postbus serve` on it, then give --url "
                 "http://127.0.0.1:7432 or POSTBUS_URL"};
  auto found = postgres::read_attachment(at.data);
  if (!found) return found.error();
  return std::move(found->gateway);
}

client connect_client(const targets& at, const std::string& gateway) { return client{gateway, {.token = at.token, .ca_file = at.ca_file}}; }

exit_code tell_unattached(const error& why) {
  if (why.code == errc::not_found) return tell(exit_nothing_there, why.text);
  return tell(why);
}

exit_code tell(const request_error& why) { return tell(error{remote::parse_errc(why.code()), why.what()}); }

}  // namespace postbus::app
