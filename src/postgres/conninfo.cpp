#include "postgres/conninfo.hpp"

#include <boost/asio/ip/address.hpp>

#include <algorithm>
#include <cstdlib>

#include "postgres/conninfo_parts.hpp"

namespace postbus::postgres {
namespace {

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> parts;
  for (;;) {
    const auto comma = list.find(',');
    parts.emplace_back(list.substr(0, comma));
    if (comma == list.npos) return parts;
    list.remove_prefix(comma + 1);
  }
}

/** A keyword's value, or libpq's environment variable for it. */
std::string value_or_environment(std::string_view value, const char* variable) {
  const char* set = value.empty() ? std::getenv(variable) : nullptr;
  return set ? std::string{set} : std::string{value};
}

bool is_name(const std::string& host) {
  boost::system::error_code no_address;
  boost::asio::ip::make_address(host, no_address);
  return !host.empty() && host[0] != '/' && host[0] != '@' && no_address;
}

void append(std::string& list, std::string_view item, bool first) {
  if (!first) list += ',';
  list += item;
}

}  // namespace

void conninfo::set(std::string_view key, std::string value) {
  const auto same = std::ranges::find(list_, key, &std::pair<std::string, std::string>::first);
  if (same == list_.end())
    list_.emplace_back(key, std::move(value));
  else
    same->second = std::move(value);
}

std::string_view conninfo::get(std::string_view key) const {
  const auto same = std::ranges::find(list_, key, &std::pair<std::string, std::string>::first);
  return same == list_.end() ? std::string_view{} : std::string_view{same->second};
}

std::vector<std::string> conninfo::unresolved() const {
  if (!value_or_environment(get("hostaddr"), "PGHOSTADDR").empty()) return {};
  auto hosts = split(value_or_environment(get("host"), "PGHOST"));
  std::erase_if(hosts, [](const auto& host) { return !is_name(host); });
  return hosts;
}

void conninfo::use_addresses(const std::map<std::string, std::vector<std::string>, std::less<>>& found) {
  const auto hosts = split(value_or_environment(get("host"), "PGHOST"));
  const auto ports = split(value_or_environment(get("port"), "PGPORT"));
  if (ports.size() != 1 && ports.size() != hosts.size()) return;  // libpq explains what is wrong with that
  std::string host_list;
  std::string address_list;
  std::string port_list;
  bool first = true;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    const auto known = found.find(hosts[i]);
    const auto addresses = known == found.end() ? std::vector<std::string>{""} : known->second;
    for (const auto& address : addresses) {
      append(host_list, hosts[i], first);
      append(address_list, address, first);
      append(port_list, ports.size() == 1 ? ports[0] : ports[i], first);
      first = false;
    }
  }
  set("host", std::move(host_list));
  set("hostaddr", std::move(address_list));
  set("port", std::move(port_list));
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
    const auto parts = parse_conninfo(text);
    if (!parts) return parts.error();
    for (const auto& [key, value] : *parts) k.set(key, value);
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
