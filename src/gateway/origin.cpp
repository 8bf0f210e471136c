// Why each rule.
//
// A gateway without tokens trusts whoever can reach its loopback address, and every web page that a user of this machine
// opens can make the browser do so. Three ways in, three rules:
// - DNS rebinding: evil.example is made to resolve to 127.0.0.1, so the page is of the "same origin". The browser still
//   sends `Host: evil.example`: Host must be a loopback name, which no outside page can have.
// - Cross-origin requests and WebSockets: the browser names the page in Origin: it must be the gateway's own, port included
//   (another port of localhost is another program), or one the operator listed.
// - Requests that carry no Origin (images, scripts, links, forms by GET): browsers mark them with Sec-Fetch-Site. Anything
//   but same-origin and none (typed by the user) is refused; same-site too, because sites ignore ports.
// With tokens a page can do nothing without showing one, and a browser adds none by itself.
#include "gateway/origin.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/ascii.hpp"

namespace postbus::gateway {
namespace {

struct host_port {
  std::string_view name;     ///< with the brackets of an IPv6 address
  std::optional<int> port;
};

std::optional<host_port> split(std::string_view authority) {
  host_port out;
  std::string_view rest;
  if (authority.starts_with('[')) {
    const auto close = authority.find(']');
    if (close == std::string_view::npos) return {};
    out.name = authority.substr(0, close + 1);
    rest = authority.substr(close + 1);
  } else {
    const auto colon = std::min(authority.find(':'), authority.size());
    out.name = authority.substr(0, colon);
    rest = authority.substr(colon);
  }
  if (out.name.empty()) return {};
  for (const char c : out.name)
    if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == '@' || c == '?' || c == '#' || c == '\\' || c == ',' || c == 0x7f)
      return {};
  if (rest.empty()) return out;
  int port = 0;
  const auto [end, why] = std::from_chars(rest.data() + 1, rest.data() + rest.size(), port);
  if (rest[0] != ':' || why != std::errc{} || end != rest.data() + rest.size() || port < 1 || port > 65535) return {};
  out.port = port;
  return out;
}

struct origin_parts {
  bool https{};
  host_port at;
};

/** scheme://host[:port], http or https; nothing for "null" and other schemes. */
std::optional<origin_parts> split_origin(std::string_view origin) {
  for (const bool https : {false, true}) {
    const std::string_view prefix = https ? "https://" : "http://";
    if (!equal_ignoring_case(origin.substr(0, prefix.size()), prefix)) continue;
    const auto at = split(origin.substr(prefix.size()));
    if (!at) return {};
    return origin_parts{https, *at};
  }
  return {};
}

int default_port(bool https) { return https ? 443 : 80; }

bool same_origin(const origin_parts& a, const origin_parts& b) {
  return a.https == b.https && equal_ignoring_case(a.at.name, b.at.name) &&
         a.at.port.value_or(default_port(a.https)) == b.at.port.value_or(default_port(b.https));
}

bool is_configured_host(const origin_policy& policy, const host_port& host) {
  return std::ranges::any_of(policy.hosts, [&](const std::string& text) {
    const auto wanted = split(text);
    return wanted && equal_ignoring_case(wanted->name, host.name) && (!wanted->port || wanted->port == host.port);
  });
}

bool is_own(const origin_policy& policy, const origin_parts& origin, const host_port& host) {
  using scheme = origin_policy::scheme;
  if (policy.seen_as != scheme::any && origin.https != (policy.seen_as == scheme::https)) return false;
  return same_origin(origin, {origin.https, host});
}

/** "*" also lets in opaque origins ("null": a page from a file, a sandboxed frame). */
bool is_listed(const origin_policy& policy, const std::optional<origin_parts>& origin) {
  return std::ranges::any_of(policy.allowed_origins, [&](const std::string& text) {
    if (text == "*") return policy.tokens;
    const auto listed = split_origin(text);
    return listed && origin && same_origin(*listed, *origin);
  });
}

error forbidden(std::string text) { return {errc::forbidden, std::move(text)}; }

}  // namespace

bool is_loopback_host(std::string_view host) {
  const auto at = split(host);
  if (!at) return false;
  auto name = at->name;
  if (name.ends_with('.')) name.remove_suffix(1);  // localhost. is localhost
  if (equal_ignoring_case(name, "localhost") || name == "[::1]") return true;
  constexpr std::string_view suffix = ".localhost";
  if (name.size() > suffix.size() && equal_ignoring_case(name.substr(name.size() - suffix.size()), suffix)) return true;
  // 127.0.0.0/8 in dotted form with four decimal parts; 127.1 and 0x7f.1 are for nobody's Host.
  int parts = 0;
  for (auto rest = name;; ++parts) {
    const auto dot = std::min(rest.find('.'), rest.size());
    const auto part = rest.substr(0, dot);
    int value = 0;
    const auto [end, why] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (part.empty() || part.size() > 3 || why != std::errc{} || end != part.data() + part.size() || value < 0 || value > 255) return false;
    if (parts == 0 && value != 127) return false;
    if (dot == rest.size()) break;
    rest.remove_prefix(dot + 1);
  }
  return parts == 3;
}

result<> check_policy(const origin_policy& policy) {
  for (const auto& host : policy.hosts)
    if (!split(host))
      return error{errc::invalid_argument,
                   fmt::format("--host {}: a host name looks like events.example.com or events.example.com:7432", host)};
  for (const auto& origin : policy.allowed_origins) {
    if (origin == "*") {
      if (!policy.tokens)
        return error{errc::invalid_argument, "--allow-origin '*' needs --tokens: without them any web page could post and listen"};
    } else if (!split_origin(origin)) {
      return error{errc::invalid_argument,
                   fmt::format("--allow-origin {}: an origin looks like https://app.example.com, without a path", origin)};
    }
  }
  return {};
}

result<caller> check_caller(const origin_policy& policy, const origin_fields& request) {
  std::optional<host_port> host;
  if (request.host && !request.host->empty()) {
    host = split(*request.host);
    if (!host) return forbidden("the Host field is malformed");
  }
  // HTTP/1.0 has no Host; no browser speaks it, so nothing is lost by letting a probe in.
  const bool browser = request.origin || request.sec_fetch_site;
  if (!host && (request.host || browser)) return forbidden("the Host field is missing");
  if (host && (!policy.tokens || !policy.hosts.empty()) && !is_loopback_host(*request.host) && !is_configured_host(policy, *host))
    return forbidden("this gateway does not answer to that Host; name it with --host");

  if (request.origin) {
    const auto origin = split_origin(*request.origin);
    if (origin && host && is_own(policy, *origin, *host)) {
      if (request.sec_fetch_site && *request.sec_fetch_site != "same-origin" && *request.sec_fetch_site != "none" && !policy.tokens)
        return forbidden("the browser says that this request comes from another site");
      return caller::own_page;
    }
    if (is_listed(policy, origin)) return caller::allowed;
    return forbidden("pages of that origin may not use this gateway; name it with --allow-origin");
  }
  if (!request.sec_fetch_site || *request.sec_fetch_site == "none") return caller::direct;
  if (*request.sec_fetch_site == "same-origin") return caller::own_page;
  if (policy.tokens) return caller::direct;
  return forbidden("a page of another site or port may not use this gateway; name it with --allow-origin");
}

}  // namespace postbus::gateway
