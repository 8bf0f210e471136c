#include "postgres/conninfo.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postbus::postgres {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

conninfo of(std::string url) {
  auto made = conninfo::from({.conninfo = std::move(url)});
  EXPECT_TRUE(made);
  return made ? *made : conninfo{};
}

TEST(conninfo, the_url_overrules_our_defaults_and_not_our_needs) {
  const auto k = of("postgresql://u:p@h/d?keepalives_idle=60&client_encoding=LATIN1&application_name=mine");
  EXPECT_EQ(k.get("keepalives_idle"), "60");
  EXPECT_EQ(k.get("tcp_user_timeout"), "10000");
  EXPECT_EQ(k.get("client_encoding"), "UTF8");
  EXPECT_EQ(k.get("application_name"), "mine");
  EXPECT_EQ(k.get("dbname"), "d");
}

TEST(conninfo, takes_every_form_that_libpq_takes) {
  EXPECT_EQ(of("host=h dbname='d e'").get("dbname"), "d e");
  EXPECT_EQ(of("orders").get("dbname"), "orders");
  EXPECT_EQ(of("").get("dbname"), "");
  EXPECT_FALSE(conninfo::from({.conninfo = "postgresql://u:%zz@h"}));
}

TEST(conninfo, session_options_are_added_to_the_urls) {
  const auto k = *conninfo::from({.conninfo = "host=h options='-c geqo=off'", .session_options = "-c datestyle=ISO"});
  EXPECT_EQ(k.get("options"), "-c geqo=off -c datestyle=ISO");
}

TEST(conninfo, only_names_are_looked_up) {
  EXPECT_THAT(of("host=a.example,/run/postgresql,10.0.0.1,::1,b").unresolved(), ElementsAre("a.example", "b"));
  EXPECT_THAT(of("host=a.example hostaddr=10.0.0.1").unresolved(), IsEmpty());
  EXPECT_THAT(of("postgresql:///d?host=/tmp").unresolved(), IsEmpty());
}

TEST(conninfo, addresses_stand_beside_their_names) {
  auto k = of("postgresql://a:1,10.0.0.1:2,b:3/d");
  k.use_addresses({{"a", {"192.0.2.1", "2001:db8::1"}}, {"b", {"192.0.2.2"}}});
  EXPECT_EQ(k.get("host"), "a,a,10.0.0.1,b");
  EXPECT_EQ(k.get("hostaddr"), "192.0.2.1,2001:db8::1,,192.0.2.2");
  EXPECT_EQ(k.get("port"), "1,1,2,3");
}

}  // namespace
}  // namespace postbus::postgres
