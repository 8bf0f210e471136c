#include "client/gateway_url.hpp"

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

#include <charconv>
#include <cstdint>

namespace postbus::remote {
namespace {

bool is_unreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
}

}  // namespace

std::string gateway_url::authority() const {
  const bool v6 = host.find(':') != std::string::npos;
  std::string out = v6 ? '[' + host + ']' : host;
  if (port != (tls ? "443" : "80")) out += ':' + port;
  return out;
}

std::string gateway_url::text() const { return (tls ? "https://" : "http://") + authority() + prefix; }

result<gateway_url> parse_gateway_url(std::string_view text) {
  const auto refuse = [](std::string_view why) {
    return error{errc::invalid_argument,
                 "a gateway's URL looks like http://127.0.0.1:7432 or https://bus.example.com: " + std::string{why}};
  };
  const auto parsed = boost::urls::parse_uri(boost::core::string_view{text.data(), text.size()});
  if (!parsed) return refuse("this one does not parse");
  const auto& uri = *parsed;
  gateway_url out;
  if (uri.scheme_id() == boost::urls::scheme::https)
    out.tls = true;
  else if (uri.scheme_id() != boost::urls::scheme::http)
    return refuse("the scheme is neither http nor https");
  if (uri.has_userinfo()) return refuse("give the token by POSTBUS_TOKEN, not in the URL");
  if (uri.has_query() || uri.has_fragment()) return refuse("it has no query and no fragment");
  out.host = uri.host_address();
  if (out.host.empty()) return refuse("the host is missing");
  out.port = uri.port();
  if (out.port.empty()) out.port = out.tls ? "443" : "80";
  std::uint16_t number = 0;
  const auto [end, ec] = std::from_chars(out.port.data(), out.port.data() + out.port.size(), number);
  if (ec != std::errc{} || end != out.port.data() + out.port.size() || number == 0) return refuse("the port is not between 1 and 65535");
  const auto path = uri.encoded_path();
  out.prefix.assign(path.data(), path.size());
  while (out.prefix.ends_with('/')) out.prefix.pop_back();
  return out;
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (is_unreserved(c)) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += '%';
    out += hex[byte >> 4];
    out += hex[byte & 15];
  }
  return out;
}

}  // namespace postbus::remote
