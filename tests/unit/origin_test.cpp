#include "gateway/origin.hpp"

#include <gtest/gtest.h>

namespace postbus::gateway {
namespace {

using opt = std::optional<std::string_view>;

std::string verdict(const origin_policy& policy, opt host, opt origin = {}, opt site = {}) {
  const auto who = check_caller(policy, {host, origin, site});
  if (!who) {
    EXPECT_EQ(who.error().code, errc::forbidden);
    return "refused";
  }
  return *who == caller::direct ? "direct" : *who == caller::own_page ? "own page" : "allowed";
}

TEST(loopback_host, names) {
  for (const auto* yes :
       {"localhost", "LOCALHOST:7432", "localhost.", "a.localhost", "127.0.0.1", "127.0.0.1:1", "127.255.0.9", "[::1]", "[::1]:7432"})
    EXPECT_TRUE(is_loopback_host(yes)) << yes;
  for (const auto* no : {"",
                         "evil.example",
                         "localhost.evil.example",
                         "notlocalhost",
                         ".localhost",
                         "127.evil.example",
                         "127.0.0.1.evil.example",
                         "127.0.0",
                         "127.0.0.256",
                         "128.0.0.1",
                         "127.0.0.1.2",
                         "1270.0.0.1",
                         "127.0.0.-1",
                         "127..0.1",
                         "0.0.0.0",
                         "[::2]",
                         "[::1",
                         "[::1]x",
                         "localhost:",
                         "localhost:0",
                         "localhost:99999",
                         "localhost:80x",
                         "localhost@evil",
                         "::1",
                         "evil.example#localhost",
                         "localhost,evil"})
    EXPECT_FALSE(is_loopback_host(no)) << no;
}

TEST(origin, without_tokens_programs_and_the_own_page_pass) {
  const origin_policy p;
  EXPECT_EQ(verdict(p, "localhost:7432"), "direct");
  EXPECT_EQ(verdict(p, "127.0.0.1:7432"), "direct");
  EXPECT_EQ(verdict(p, {}), "direct") << "HTTP/1.0 without Host";
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "none"), "direct") << "typed into the browser";
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "same-origin"), "own page");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:7432", "same-origin"), "own page");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:7432"), "own page") << "browsers without Sec-Fetch-Site";
  EXPECT_EQ(verdict(p, "localhost:9000", "http://localhost:9000", "same-origin"), "own page") << "a forwarded port";
  EXPECT_EQ(verdict(p, "localhost", "http://localhost:80"), "own page");
  EXPECT_EQ(verdict(p, "[::1]:7432", "http://[::1]:7432"), "own page");
}

TEST(origin, without_tokens_everything_foreign_is_refused) {
  const origin_policy p;
  EXPECT_EQ(verdict(p, "evil.example:7432"), "refused") << "DNS rebinding";
  EXPECT_EQ(verdict(p, "evil.example:7432", "http://evil.example:7432", "same-origin"), "refused");
  EXPECT_EQ(verdict(p, "192.168.1.5:7432"), "refused");
  EXPECT_EQ(verdict(p, ""), "refused");
  EXPECT_EQ(verdict(p, {}, "http://localhost:7432"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://evil.example", "cross-site"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://evil.example"), "refused") << "a WebSocket of an old browser";
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:3000", "same-site"), "refused") << "another port is another program";
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "same-site"), "refused") << "an image on a page of another port: GET /post";
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "cross-site"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "whatever"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:7432", "cross-site"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "https://localhost:7432"), "refused") << "another scheme";
  EXPECT_EQ(verdict(p, "localhost:7432", "http://127.0.0.1:7432"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "null"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", ""), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:7432/"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:7432 http://evil"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "file://"), "refused");
}

TEST(origin, configured_names) {
  origin_policy p;
  p.hosts = {"events.internal", "pinned.internal:8080"};
  p.allowed_origins = {"http://localhost:3000", "https://app.example.com"};
  ASSERT_TRUE(check_policy(p));
  EXPECT_EQ(verdict(p, "Events.Internal:7432"), "direct");
  EXPECT_EQ(verdict(p, "pinned.internal:8080"), "direct");
  EXPECT_EQ(verdict(p, "pinned.internal:8081"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432"), "direct");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://localhost:3000", "same-site"), "allowed");
  EXPECT_EQ(verdict(p, "localhost:7432", "https://app.example.com:443", "cross-site"), "allowed");
  EXPECT_EQ(verdict(p, "localhost:7432", "http://app.example.com", "cross-site"), "refused");
  EXPECT_EQ(verdict(p, "localhost:7432", "https://app.example.com.evil", "cross-site"), "refused");
  EXPECT_EQ(verdict(p, "evil.example", "https://app.example.com", "cross-site"), "refused") << "Host counts first";
  EXPECT_EQ(verdict(p, "localhost:7432", {}, "same-site"), "refused") << "no Origin, no proof of being the listed one";
}

TEST(origin, with_tokens) {
  origin_policy p;
  p.tokens = true;
  p.seen_as = origin_policy::scheme::https;
  EXPECT_EQ(verdict(p, "events.example.com"), "direct");
  EXPECT_EQ(verdict(p, "events.example.com", {}, "cross-site"), "direct") << "a link; it carries no token";
  EXPECT_EQ(verdict(p, "events.example.com", "https://events.example.com", "same-origin"), "own page");
  EXPECT_EQ(verdict(p, "events.example.com", "http://events.example.com"), "refused");
  EXPECT_EQ(verdict(p, "events.example.com", "https://app.example.com", "same-site"), "refused") << "not listed";
  p.allowed_origins = {"https://app.example.com"};
  EXPECT_EQ(verdict(p, "events.example.com", "https://app.example.com", "same-site"), "allowed");
  p.seen_as = origin_policy::scheme::any;
  EXPECT_EQ(verdict(p, "events.example.com", "https://events.example.com"), "own page") << "behind a proxy that speaks TLS";
  p.allowed_origins = {"*"};
  ASSERT_TRUE(check_policy(p));
  EXPECT_EQ(verdict(p, "events.example.com", "https://anything.example", "cross-site"), "allowed");
  EXPECT_EQ(verdict(p, "events.example.com", "null", "cross-site"), "allowed") << "a page opened from a file";
  p.hosts = {"events.example.com"};
  EXPECT_EQ(verdict(p, "other.example.com"), "refused");
}

TEST(origin, policies_that_make_no_sense) {
  origin_policy p;
  p.allowed_origins = {"*"};
  EXPECT_FALSE(check_policy(p)) << "without tokens";
  p.allowed_origins.clear();
  EXPECT_TRUE(check_policy(p));
  for (const auto* bad : {"app.example.com", "https://app.example.com/", "https://", "null", ""}) {
    p.allowed_origins = {bad};
    EXPECT_FALSE(check_policy(p)) << bad;
  }
  p.allowed_origins.clear();
  for (const auto* bad : {"", "http://a", "a:x", "a b"}) {
    p.hosts = {bad};
    EXPECT_FALSE(check_policy(p)) << bad;
  }
  p.hosts.clear();
  p.allowed_origins = {"*"};
  EXPECT_EQ(verdict(p, "localhost:7432", "http://evil.example"), "refused") << "even unchecked, * means nothing without tokens";
}

}  // namespace
}  // namespace postbus::gateway
