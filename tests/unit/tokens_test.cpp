#include "gateway/tokens.hpp"

#include <gtest/gtest.h>

namespace postbus::gateway {
namespace {

bool matches(std::string_view pattern, std::string_view name) {
  const auto p = grant_pattern::parse(pattern);
  EXPECT_TRUE(p) << pattern;
  return p && p->matches(name);
}

TEST(grant_pattern, literal) {
  EXPECT_TRUE(matches("orders", "orders"));
  EXPECT_FALSE(matches("orders", "orders2"));
  EXPECT_FALSE(matches("orders", "order"));
  EXPECT_FALSE(matches("orders", "Orders")) << "channels are case-sensitive";
  EXPECT_FALSE(matches("orders", "orders:eu"));
}

TEST(grant_pattern, one_star_stays_within_its_segment) {
  EXPECT_TRUE(matches("chat:*", "chat:7"));
  EXPECT_TRUE(matches("chat:*", "chat:"));
  EXPECT_FALSE(matches("chat:*", "chat"));
  EXPECT_FALSE(matches("chat:*", "chat:7:typing"));
  EXPECT_FALSE(matches("chat:*", "chat:7.typing"));
  EXPECT_FALSE(matches("chat:*", "chat.7"));
  EXPECT_TRUE(matches("table:public.*", "table:public.orders"));
  EXPECT_FALSE(matches("table:public.*", "table:private.orders"));
  EXPECT_FALSE(matches("table:public.*", "table:public.a.b"));
  EXPECT_TRUE(matches("*", "orders"));
  EXPECT_FALSE(matches("*", "table:public.orders"));
  EXPECT_TRUE(matches("*:*.*", "table:public.orders"));
  EXPECT_TRUE(matches("user-*-inbox", "user-7-inbox"));
  EXPECT_TRUE(matches("user-*-inbox", "user--inbox"));
  EXPECT_FALSE(matches("user-*-inbox", "user-inbox")) << "the two halves must not overlap";
  EXPECT_TRUE(matches("*🐘", "a/b c🐘"));
}

TEST(grant_pattern, two_stars_take_the_rest) {
  EXPECT_TRUE(matches("**", ""));
  EXPECT_TRUE(matches("**", "table:public.orders"));
  EXPECT_TRUE(matches("logs.**", "logs.a.b:c"));
  EXPECT_TRUE(matches("logs.**", "logs."));
  EXPECT_FALSE(matches("logs.**", "logs"));
  EXPECT_TRUE(matches("log**", "logs.a"));
  EXPECT_TRUE(matches("*.x**", "a.xyz:b"));
  EXPECT_FALSE(matches("*.x**", "a:xyz"));
  EXPECT_TRUE(matches("a*b**", "a--b:rest"));
  EXPECT_FALSE(matches("a*b**", "a:b"));
  EXPECT_FALSE(matches("a*b**", "a"));
}

TEST(grant_pattern, reaches_what_it_matches_the_beginning_of) {
  const auto reaches = [](std::string_view pattern) { return grant_pattern::parse(pattern).value().reaches("table:"); };
  for (const auto* const pattern : {"table:*", "table:public.orders", "t*e:x", "*:*.*", "**", "tab**", "t*b**", "table:**"})
    EXPECT_TRUE(reaches(pattern)) << pattern;
  for (const auto* const pattern : {"table", "*", "tables:*", "table.*", "chat:*", "tables**", "t*x**", "orders"})
    EXPECT_FALSE(reaches(pattern)) << pattern;
}

TEST(grant_pattern, what_is_no_pattern) {
  for (const auto* bad : {"", "**.a", "a.**.b", "a*b*c", "a\n", "\xff", "a****"}) EXPECT_FALSE(grant_pattern::parse(bad)) << bad;
  EXPECT_FALSE(grant_pattern::parse(std::string(256, 'a')));
}

TEST(grant_pattern, long_texts_take_one_pass) {
  // A backtracking matcher would need about 2^60 steps for this.
  std::string pattern, name;
  for (int i = 0; i < 60; ++i) {
    pattern += "*a.";
    name += "aaa.";
  }
  EXPECT_FALSE(matches(pattern + "b", name + "c"));
}

const std::string file = R"(# who may do what
[[token]]
name = "dashboard"
sha256 = ")" + token_sha256_hex("secret one") +
                         R"("
listen = ["orders", "table:public.*"]

[[token]]
name = "billing"
sha256 = ")" + token_sha256_hex("secret two") +
                         R"("
post = ["invoices.**"]
work = ["invoices"]
read = ["cache:profile"]

[[token]]
name = "root"
sha256 = ")" + token_sha256_hex("secret three") +
                         R"("
admin = true
)";

TEST(tokens, sha256_of_the_standard) {
  EXPECT_EQ(token_sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(token_sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(tokens, secrets_are_long_and_differ) {
  EXPECT_EQ(make_token_secret().size(), 43u);
  EXPECT_NE(make_token_secret(), make_token_secret());
  EXPECT_EQ(make_token_secret().find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), std::string::npos);
}

TEST(tokens, a_file_is_read_and_rights_are_told_apart) {
  const auto set = token_set::parse(file);
  ASSERT_TRUE(set) << set.error().text;
  const auto* const dashboard = (*set)->find("secret one");
  ASSERT_NE(dashboard, nullptr);
  EXPECT_EQ(dashboard->name, "dashboard");
  EXPECT_TRUE(dashboard->may(right::listen, "orders"));
  EXPECT_TRUE(dashboard->may(right::listen, "table:public.orders"));
  EXPECT_FALSE(dashboard->may(right::post, "orders"));
  EXPECT_FALSE(dashboard->may(right::listen, "invoices.eu"));
  const auto* const billing = (*set)->find("secret two");
  ASSERT_NE(billing, nullptr);
  EXPECT_TRUE(billing->may(right::post, "invoices.eu.7"));
  EXPECT_TRUE(billing->may(right::work, "invoices"));
  EXPECT_TRUE(billing->may(right::read, "cache:profile"));
  EXPECT_FALSE(billing->may(right::listen, "invoices.eu"));
  const auto* const root = (*set)->find("secret three");
  ASSERT_NE(root, nullptr);
  EXPECT_TRUE(root->may(right::post, "anything:at.all"));
  for (const auto* wrong : {"", "secret", "secret one ", "secret four"}) EXPECT_EQ((*set)->find(wrong), nullptr) << wrong;
  EXPECT_EQ((*set)->find(token_sha256_hex("secret one")), nullptr) << "the file's own text is no secret that opens anything";
}

TEST(tokens, a_reload_tells_who_was_revoked_or_narrowed) {
  const auto before = token_set::parse(file).value();
  const auto digest = before->find("secret one")->digest;
  auto changed = file;
  changed.replace(changed.find("\"orders\", "), 10, "");
  const auto narrowed = token_set::parse(changed).value();
  ASSERT_NE(narrowed->find(digest), nullptr);
  EXPECT_FALSE(narrowed->find(digest)->may(right::listen, "orders"));
  EXPECT_TRUE(narrowed->find(digest)->may(right::listen, "table:public.orders"));
  const auto revoked = token_set::parse(file.substr(file.find("[[token]]", 30))).value();
  EXPECT_EQ(revoked->find(digest), nullptr);
  EXPECT_TRUE(before->find(digest)->may(right::listen, "orders")) << "who holds the old set still has it whole";
}

TEST(tokens, complaints_carry_the_line) {
  const auto complaint = [](std::string_view toml) {
    const auto set = token_set::parse(toml, "tokens.toml");
    EXPECT_FALSE(set) << toml;
    return set ? "" : set.error().text;
  };
  const std::string hash = "sha256=\"" + token_sha256_hex("x") + "\"\n";
  EXPECT_TRUE(complaint("[[token]]\nname = \n").starts_with("tokens.toml:2: "));
  EXPECT_TRUE(complaint("").contains("no [[token]]"));
  EXPECT_TRUE(complaint("token = 1").contains("no [[token]]"));
  EXPECT_TRUE(complaint("token = [1]").contains("[[token]] tables"));
  EXPECT_TRUE(complaint("a = 1\n[[token]]\n").starts_with("tokens.toml:1: unknown key `a`"));
  EXPECT_TRUE(complaint("[[token]]\n" + hash).starts_with("tokens.toml:1: a token needs a `name`"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n").contains("needs a `sha256`"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\nsha256=\"secret\"\n").starts_with("tokens.toml:3: `sha256` is 64 hex digits"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "listens=[]\n").starts_with("tokens.toml:4: unknown key `listens`"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "listen=\"orders\"\n").starts_with("tokens.toml:4: `listen` is a list"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "listen=[\n\"a\",\n\"**.b\"]\n").starts_with("tokens.toml:6: `**.b`"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "listen=[1]\n").starts_with("tokens.toml:4: "));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "admin=\"yes\"\n").starts_with("tokens.toml:4: `admin`"));
  EXPECT_TRUE(complaint("[[token]]\nname=7\n" + hash).starts_with("tokens.toml:2: `name`"));
  EXPECT_TRUE(
      complaint("[[token]]\nname=\"a\"\n" + hash + "[[token]]\nname=\"a\"\nsha256=\"" + token_sha256_hex("y") + "\"").contains("is taken"));
  EXPECT_TRUE(complaint("[[token]]\nname=\"a\"\n" + hash + "[[token]]\nname=\"b\"\n" + hash).contains("same sha256"));
  EXPECT_EQ(token_set::load("/no/such/file").error().code, errc::io);
}

}  // namespace
}  // namespace postbus::gateway
