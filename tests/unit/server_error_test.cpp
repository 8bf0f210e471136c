#include <gtest/gtest.h>

#include "base/error_format.hpp"
#include "postgres/server_error.hpp"

namespace postbus::postgres {
namespace {

TEST(error_format, has_no_parentheses_where_there_is_no_detail) {
  EXPECT_EQ(fmt::format("ended: {}", error{errc::unavailable, "the session ended"}), "ended: the session ended");
  EXPECT_EQ(fmt::format("ended: {}", error{errc::unavailable, "the session ended", "[57P01] by {}"}),
            "ended: the session ended ([57P01] by {})");
}

TEST(failed_login, keeps_the_sqlstate_of_the_last_server_that_answered) {
  const auto refused = from_failed_login(
      "connection to server at \"10.0.0.1\", port 5432 failed: FATAL:  28P01: password authentication failed for user \"a\"\nLOCATION:  "
      "auth_failed, auth.c:338\n"
      "connection to server at \"10.0.0.2\", port 5432 failed: FATAL:  42501: must be superuser or replication role to start "
      "walsender\nLOCATION:  InitPostgres, postinit.c:1009\n");
  EXPECT_EQ(refused.code, errc::unavailable);
  EXPECT_EQ(sqlstate(refused), "42501");
  EXPECT_EQ(refused.detail, "[42501] must be superuser or replication role to start walsender");
  EXPECT_EQ(refused.text.find("10.0.0"), std::string::npos);
}

TEST(failed_login, has_no_sqlstate_where_nothing_answered) {
  for (const char* message : {"connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n\tIs the server running?\n", "",
                              ":  ", "x:  28P0", "FATAL:  28P01:"}) {
    const auto lost = from_failed_login(message);
    EXPECT_EQ(sqlstate(lost), "") << message;
    EXPECT_EQ(lost.text, "the database cannot be reached");
  }
}

TEST(server_error, names_the_setting_that_is_used_up) {
  const auto senders = from_failed_login(
      "connection to server at \"h\", port 5432 failed: FATAL:  53300: number of requested standby connections exceeds max_wal_senders "
      "(currently 1)\nLOCATION:  InitProcess, proc.c:352\n");
  EXPECT_NE(senders.text.find("raise max_wal_senders"), std::string::npos) << senders.text;
  const auto slots = from_server({"ERROR", "53400", "all replication slots are in use", {}, "Free one or increase max_replication_slots."});
  EXPECT_NE(slots.text.find("raise max_replication_slots"), std::string::npos) << slots.text;
  const auto sessions =
      from_failed_login("connection to server at \"h\", port 5432 failed: FATAL:  53300: sorry, too many clients already\n");
  EXPECT_NE(sessions.text.find("raise max_connections"), std::string::npos) << sessions.text;
}

}  // namespace
}  // namespace postbus::postgres
