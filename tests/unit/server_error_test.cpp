#include <gtest/gtest.h>

#include "postgres/server_error.hpp"

namespace postbus::postgres {
namespace {

TEST(failed_login, keeps_the_sqlstate_of_the_last_server_that_answered) {
  const auto refused = from_failed_login(
      "connection to server at \"10.0.0.1\", port 5432 failed: FATAL:  28P01: password authentication failed for user \"a\"\nLOCATION:  auth_failed, auth.c:338\n"
      "connection to server at \"10.0.0.2\", port 5432 failed: FATAL:  42501: must be superuser or replication role to start walsender\nLOCATION:  InitPostgres, postinit.c:1009\n");
  EXPECT_EQ(refused.code, errc::unavailable);
  EXPECT_EQ(sqlstate(refused), "42501");
  EXPECT_EQ(refused.detail, "[42501] must be superuser or replication role to start walsender");
  EXPECT_EQ(refused.text.find("10.0.0"), std::string::npos);
}

TEST(failed_login, has_no_sqlstate_where_nothing_answered) {
  for (const char* message : {"connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n\tIs the server running?\n", "", ":  ", "x:  28P0", "FATAL:  28P01:"}) {
    const auto lost = from_failed_login(message);
    EXPECT_EQ(sqlstate(lost), "") << message;
    EXPECT_EQ(lost.text, "the database cannot be reached");
  }
}

}  // namespace
}  // namespace postbus::postgres
