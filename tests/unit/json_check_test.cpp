#include "base/json_text.hpp"

#include <gtest/gtest.h>

namespace postbus {
namespace {

TEST(is_json, takes_one_value_of_any_kind) {
  for (const auto* good : {"{}", "[]", "1", "-0.5e+10", "\"x\"", "null", "true", " {\"a\": [1, {\"b\": \"\\u00e4\"}]} ",
                           "123456789012345678901234567890123456789012345678901234567890.123456789"})
    EXPECT_TRUE(is_json(good)) << good;
  EXPECT_TRUE(is_json(std::string(400, '9')));
  EXPECT_TRUE(is_json(std::string(5'000, '[') + std::string(5'000, ']')));
}

TEST(is_json, refuses_anything_else) {
  for (const auto* bad : {"", " ", "{", "1 2", "1},{\"id\":2", "{\"a\":1,}", "[1,]", "'x'", "nul", "NaN", "01", "\"\n\"", "// x\n1"})
    EXPECT_FALSE(is_json(bad)) << bad;
  EXPECT_FALSE(is_json(std::string_view{"{}\0", 3}));
  EXPECT_FALSE(is_json(std::string(20'000, '[') + std::string(20'000, ']')));
  EXPECT_TRUE(is_json("{}")) << "after a failure";
}

}  // namespace
}  // namespace postbus
