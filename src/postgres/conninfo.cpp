#include "postgres/conninfo.hpp"

#include <algorithm>

namespace postbus::postgres {

void conninfo::set(std::string_view key, std::string value) {
  const auto same = std::ranges::find(list_, key, &std::pair<std::string, std::string>::first);
  if (same == list_.end()) list_.emplace_back(key, std::move(value));
  else same->second = std::move(value);
}

std::string_view conninfo::get(std::string_view key) const {
  const auto same = std::ranges::find(list_, key, &std::pair<std::string, std::string>::first);
  return same == list_.end() ? std::string_view{} : std::string_view{same->second};
}

PGconn* conninfo::start() const {
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : list_) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  keys.push_back(nullptr);
  values.push_back(nullptr);
  return PQconnectStartParams(keys.data(), values.data(), 0);
}

result<conninfo> conninfo::from(const connect_options& options) {
  conninfo k;
  // Ten seconds without an answer and the session is given up, instead of the system's two hours.
  k.set("keepalives_idle", "4");
  k.set("keepalives_interval", "2");
  k.set("keepalives_count", "3");
  k.set("tcp_user_timeout", "10000");
  k.set("fallback_application_name", options.application_name);
  const auto& text = options.conninfo;
  if (!text.empty() && !text.contains('=') && !text.contains("://")) {
    k.set("dbname", text);
  } else {
    // libpq's complaint may quote the password, so it is not repeated.
    const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> parsed{PQconninfoParse(text.c_str(), nullptr), &PQconninfoFree};
    if (!parsed) return error{errc::invalid_argument, "the database URL is malformed; write postgresql://user@host:5432/database"};
    for (const auto* option = parsed.get(); option->keyword; ++option)
      if (option->val) k.set(option->keyword, option->val);
  }
  k.set("client_encoding", "UTF8");
  if (options.replication) k.set("replication", "database");
  if (!options.session_options.empty()) {
    auto merged = std::string{k.get("options")};
    if (!merged.empty()) merged += ' ';
    k.set("options", merged + options.session_options);
  }
  return k;
}

}  // namespace postbus::postgres
