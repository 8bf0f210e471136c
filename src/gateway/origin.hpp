#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace postbus::gateway {

/** Who may call, apart from tokens. Made once from the configuration. */
struct origin_policy {
  enum class scheme : std::uint8_t { http, https, any };

  bool tokens{};                            ///< every request must show a token: then a page cannot act on its visitor's behalf
  scheme seen_as{scheme::http};             ///< what a page of the gateway's own is served by; `any` behind a proxy
  std::vector<std::string> hosts;           ///< --host: names (with or without port) beside the loopback ones
  std::vector<std::string> allowed_origins; ///< --allow-origin: "https://app.example.com"; "*" for any, honoured only with tokens
};

/** errc::invalid_argument for an --allow-origin that is no origin, an --host that is no host, or "*" without tokens. */
result<> check_policy(const origin_policy& policy);

/** The three fields that count, as sent; nullopt where absent. */
struct origin_fields {
  std::optional<std::string_view> host, origin, sec_fetch_site;
};

enum class caller : std::uint8_t {
  direct,   ///< no page: curl, a program, an address typed into the browser
  own_page, ///< a page of this gateway
  allowed,  ///< a page of an origin on the list: the response carries Access-Control-Allow-Origin with that origin, and Vary: Origin
};

/**
 * The Host, Origin and Sec-Fetch-Site rules, for every method and upgrade. Without tokens: Host must be a loopback name or a
 * configured one (DNS rebinding), a page of another origin, port included, is refused unless listed (request forgery), and so
 * is a request without Origin that the browser marks as coming from another site or port (an image, a link). With tokens: Host
 * counts only when hosts are configured, Origin must be own or listed. errc::forbidden, with a text that names the option.
 */
result<caller> check_caller(const origin_policy& policy, const origin_fields& request);

/** localhost, *.localhost, 127.0.0.0/8, [::1]; with or without a port. */
bool is_loopback_host(std::string_view host);

}  // namespace postbus::gateway
