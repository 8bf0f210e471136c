#include "postgres/server_error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace postbus::postgres {
namespace {

std::string safe_text(const server_message& m) {
  const auto& s = m.sqlstate;
  if (raised_by_us(s)) return m.hint.empty() ? std::string{m.primary} : fmt::format("{}; {}", m.primary, m.hint);
  if (s == "42501")
    return "the gateway's database role lacks a right: grant it postbus_poster, postbus_listener or postbus_admin (postbus doctor says "
           "which)";
  if (s == "3F000" || s == "42883" || s == "42P01" || s == "42703")
    return "the database lacks the postbus schema, or has another version of it: run postbus setup";
  if (s == "25006") return "the database is read-only; a hot standby always is: use the primary's address";
  // A setting's name is not translated, the words around it are.
  if (s == "53300" && m.primary.contains("max_wal_senders"))
    return "all WAL senders of the server are in use: raise max_wal_senders (postbus doctor prints the command)";
  if (s == "53400" && m.hint.contains("max_replication_slots"))
    return "all replication slots of the server are in use: raise max_replication_slots or drop a slot nobody uses (postbus doctor prints "
           "the commands)";
  if (s == "53300") return "the database has no free connection slot: raise max_connections or close other sessions";
  if (s == "53100") return "the database's disk is full";
  if (s.starts_with("28")) return "the database refused the login: check user, password and pg_hba.conf";
  if (s == "3D000") return "the database named in the URL does not exist: create it or correct the URL";
  if (s == "54000")
    return "a limit of PostgreSQL is reached; where NOTIFY's queue is full, a listening session does not read or holds a transaction open";
  if (s == "57014") return "the database cancelled the statement";
  if (s == "57P03") return "the database is starting up or shutting down";
  if (s.starts_with("57P")) return "the database ended the session";
  return "the database refused the statement";
}

}  // namespace

bool raised_by_us(std::string_view state) { return state.starts_with("PB") || state == "22023"; }

error from_server(const server_message& m) {
  const bool ends_session = m.severity == "FATAL" || m.severity == "PANIC";
  auto detail = fmt::format("[{}] {}", m.sqlstate, m.primary);
  if (!m.detail.empty()) detail += fmt::format(" ({})", m.detail);
  if (!m.hint.empty()) detail += fmt::format("; hint: {}", m.hint);
  return {ends_session ? errc::unavailable : errc::database, safe_text(m), std::move(detail)};
}

error for_client(error e) {
  if (e.code != errc::database) return e;
  const auto s = sqlstate(e);
  if (s == "PB001")
    e.code = errc::invalid_channel;
  else if (s == "PB002")
    e.code = errc::too_large;
  else if (s == "PB011")
    e.code = errc::unsupported;
  else if (s == "PB013")
    e.code = errc::not_watched;
  else if (s == "PB030")
    e.code = errc::not_found;
  else if (s == "PB031" || s == "PB032")
    e.code = errc::invalid_position;
  else if (s.starts_with("PB") || s == "22023")
    e.code = errc::invalid_argument;
  else if (s == "22021")
    e = {errc::unsupported_media, "the text is not UTF-8", std::move(e.detail)};
  else if (s == "22P02" || s == "22030" || s == "22032")
    e = {errc::invalid_argument, "the payload is not JSON", std::move(e.detail)};
  else if (s == "22P05")
    e = {errc::invalid_argument, "PostgreSQL's JSON cannot hold \\u0000", std::move(e.detail)};
  else if (s == "25006" || s == "54000" || s.starts_with("40") || s.starts_with("53") || s.starts_with("57"))
    e.code = errc::unavailable;
  return e;
}

error from_failed_login(std::string_view message) {
  std::string line{message};
  std::ranges::replace(line, '\n', ' ');
  while (line.ends_with(' ')) line.pop_back();
  constexpr std::size_t state_length = 5;
  for (auto at = line.rfind(":  "); at != std::string::npos && at > 0; at = line.rfind(":  ", at - 1)) {
    const auto rest = std::string_view{line}.substr(at + 3);
    const auto is_state = [](unsigned char c) { return std::isdigit(c) || std::isupper(c); };
    if (rest.size() < state_length + 2 || rest.substr(state_length, 2) != ": " ||
        !std::ranges::all_of(rest.substr(0, state_length), is_state))
      continue;
    const auto state = rest.substr(0, state_length);
    const auto said = rest.substr(state_length + 2, rest.find(" LOCATION:") - state_length - 2);
    auto text = state == "42501" ? std::string{"the role may not open a session of this kind"} : safe_text({"FATAL", state, said, {}, {}});
    return {errc::unavailable, std::move(text), fmt::format("[{}] {}", state, said)};
  }
  return {errc::unavailable, "the database cannot be reached", std::move(line)};
}

std::string_view sqlstate(const error& e) {
  const std::string_view d = e.detail;
  if (d.size() < 7 || d[0] != '[' || d[6] != ']') return {};
  const auto state = d.substr(1, 5);
  const bool well_formed = std::ranges::all_of(state, [](unsigned char c) { return std::isdigit(c) || std::isupper(c); });
  return well_formed ? state : std::string_view{};
}

}  // namespace postbus::postgres
