#include "gateway/target.hpp"

#include <gtest/gtest.h>

namespace postbus::gateway {
namespace {

using namespace std::chrono_literals;
using strings = std::vector<std::string>;

target parsed(std::string_view raw) {
  auto t = target::parse(raw);
  EXPECT_TRUE(t) << raw << ": " << t.error().text;
  return t ? std::move(*t) : target{};
}
errc refused(std::string_view raw) {
  const auto t = target::parse(raw);
  EXPECT_FALSE(t) << raw;
  return t ? errc::internal : t.error().code;
}

TEST(target, segments) {
  EXPECT_EQ(parsed("/").segments(), strings{});
  EXPECT_EQ(parsed("/wait").segments(), strings{"wait"});
  EXPECT_EQ(parsed("/v1/channels/orders").segments(), (strings{"v1", "channels", "orders"}));
  EXPECT_EQ(parsed("/v1/channels/a%2Fb%20c%3F").segments(), (strings{"v1", "channels", "a/b c?"}));
  EXPECT_EQ(parsed("/v1/channels/%F0%9F%90%98").segments().back(), "🐘");
  EXPECT_EQ(parsed("/v1/channels/🐘").segments().back(), "🐘") << "raw UTF-8, as curl sends it";
  EXPECT_EQ(parsed("/a+b").segments(), strings{"a+b"}) << "a plus is a plus in a path";
  EXPECT_EQ(parsed("/a/").segments(), (strings{"a", ""}));
  EXPECT_EQ(parsed("//").segments(), (strings{"", ""}));
  EXPECT_EQ(parsed("/a/../b").segments(), (strings{"a", "..", "b"}));
  EXPECT_EQ(parsed("/x%2Fy?q=1").path(), "/x%2Fy");
}

TEST(target, parameters) {
  const auto t = parsed("/post?channel=a%20b+c&payload={\"a\":1}&channel=d%26e%3Df&empty=&bare&&x=1=2#fragment");
  EXPECT_EQ(t.all("channel"), (std::vector<std::string_view>{"a b c", "d&e=f"}));
  EXPECT_EQ(t.one("payload").value(), "{\"a\":1}");
  EXPECT_EQ(t.one("empty").value(), "");
  EXPECT_EQ(t.one("bare").value(), "");
  EXPECT_EQ(t.one("absent").value(), std::nullopt);
  EXPECT_EQ(t.one("x").value(), "1=2");
  EXPECT_EQ(t.one("channel").error().code, errc::invalid_argument) << "given twice";
  EXPECT_EQ(t.required("payload").value(), "{\"a\":1}");
  EXPECT_TRUE(t.required("absent").error().text.contains("absent"));
  EXPECT_EQ(parsed("/?a%62=c").one("ab").value(), "c");
}

TEST(target, what_cannot_be_decoded_is_refused) {
  for (const auto* bad :
       {"/%", "/%2", "/%zz", "/%2g", "/a?b=%", "/a?b=%4", "/a?%=b", "/%ff", "/%c3", "/a?b=%ed%a0%80", "/%00", "/a?b=%00", "/%u1234"})
    EXPECT_EQ(refused(bad), errc::invalid_argument) << bad;
  std::string deep, wide = "/?";
  for (int i = 0; i < 33; ++i) deep += "/a";
  for (int i = 0; i < 1001; ++i) wide += "a&";
  EXPECT_EQ(refused(deep), errc::invalid_argument);
  EXPECT_EQ(refused(wide), errc::invalid_argument);
}

TEST(target, a_misspelt_parameter_is_named) {
  const auto t = parsed("/wait?chanel=a&access_token=s");
  const auto checked = t.only({"channel", "timeout"});
  ASSERT_FALSE(checked);
  EXPECT_TRUE(checked.error().text.contains("`chanel`"));
  EXPECT_TRUE(checked.error().text.contains("channel, timeout"));
  EXPECT_TRUE(parsed("/wait?channel=a&access_token=s").only({"channel"}));
}

TEST(target, durations) {
  const auto d = [](std::string_view text) { return parse_duration(text); };
  EXPECT_EQ(d("500ms").value(), 500ms);
  EXPECT_EQ(d("30s").value(), 30s);
  EXPECT_EQ(d("30").value(), 30s);
  EXPECT_EQ(d("2.5").value(), 2500ms);
  EXPECT_EQ(d("1.5m").value(), 90s);
  EXPECT_EQ(d("1h").value(), 1h);
  EXPECT_EQ(d("0").value(), 0ms);
  for (const auto* bad : {"", "s", "-1s", "+1s", "1 s", "1d", "1e3", "inf", "nan", ".5", "5.", "1.2.3", "9999999999999s", "0x10", "1S"})
    EXPECT_FALSE(d(bad)) << bad;
  const auto t = parsed("/?wait=61s&ok=60s&bad=x&far=999999999999h");
  EXPECT_EQ(t.duration("ok", 1s, 60s).value(), 60s);
  EXPECT_EQ(t.duration("absent", 1s, 60s).value(), 1s);
  EXPECT_FALSE(t.duration("wait", 1s, 60s));
  EXPECT_FALSE(t.duration("bad", 1s, 60s));
  EXPECT_FALSE(t.duration("far", 1s, 60s));
}

TEST(target, flags_starts_and_formats) {
  const auto t =
      parsed("/?loop&no=false&one=1&bad=yes&after=5f3a9c01-0000000a1b2c3d40-00000003&first=beginning&now=now&wrong=5&format=event");
  EXPECT_TRUE(t.flag("loop").value());
  EXPECT_FALSE(t.flag("no").value());
  EXPECT_TRUE(t.flag("one").value());
  EXPECT_FALSE(t.flag("absent").value());
  EXPECT_TRUE(t.flag("absent", true).value());
  EXPECT_FALSE(t.flag("bad"));
  EXPECT_EQ(std::get<bus::position>(t.start().value()), (bus::position{0x5f3a9c01, 0xa1b2c3d40, 3}));
  EXPECT_TRUE(std::holds_alternative<bus::from_beginning>(t.start("first").value()));
  EXPECT_TRUE(std::holds_alternative<bus::from_now>(t.start("now").value()));
  EXPECT_TRUE(std::holds_alternative<bus::from_now>(t.start("absent").value()));
  EXPECT_EQ(t.start("wrong").error().code, errc::invalid_position);
  EXPECT_EQ(t.format(wire_format::payload).value(), wire_format::event);
  EXPECT_EQ(parsed("/").format(wire_format::payload).value(), wire_format::payload);
  EXPECT_FALSE(parsed("/?format=xml").format(wire_format::payload));
}

}  // namespace
}  // namespace postbus::gateway
