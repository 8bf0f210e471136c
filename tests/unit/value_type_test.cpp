#include "feeds/value_type.hpp"

#include <gtest/gtest.h>

#include "base/json_text.hpp"

namespace postbus::feeds {
namespace {

constexpr oid text = 25, integer = 23, boolean = 16, json = 114, timestamp = 1114, timestamptz = 1184, int_array = 1007, text_array = 1009,
              box_array = 1020, int2vector = 22;

std::string written(const type_table& types, oid type, std::string_view value) {
  std::string out;
  append_value(out, *types.find(type), value);
  return out;
}

TEST(value_type, scalars) {
  const type_table types;
  EXPECT_EQ(written(types, integer, "-7"), "-7");
  EXPECT_EQ(written(types, 701, "1e+300"), "1e+300");
  EXPECT_EQ(written(types, 1700, "NaN"), "\"NaN\"");
  EXPECT_EQ(written(types, 701, "-Infinity"), "\"-Infinity\"");
  EXPECT_EQ(written(types, boolean, "t"), "true");
  EXPECT_EQ(written(types, boolean, "f"), "false");
  EXPECT_EQ(written(types, json, R"({"a":  1})"), R"({"a":  1})");
  EXPECT_EQ(written(types, text, "a\"b\\\n"), R"("a\"b\\\n")");
  EXPECT_EQ(written(types, 26, "16384"), "\"16384\"") << "an oid is no number to row_to_json";
}

TEST(value_type, times) {
  const type_table types;
  EXPECT_EQ(written(types, timestamp, "2026-11-22 01:02:03.004"), "\"2026-11-22T01:02:03.004\"");
  EXPECT_EQ(written(types, timestamp, "0044-03-15 01:02:03 BC"), "\"0044-03-15T01:02:03 BC\"");
  EXPECT_EQ(written(types, timestamp, "-infinity"), "\"-infinity\"");
  EXPECT_EQ(written(types, timestamptz, "2026-11-22 01:02:03+00"), "\"2026-11-22T01:02:03+00:00\"");
  EXPECT_EQ(written(types, timestamptz, "0044-03-15 01:02:03+00 BC"), "\"0044-03-15T01:02:03+00:00 BC\"");
  EXPECT_EQ(written(types, 1082, "2026-11-22"), "\"2026-11-22\"");
}

TEST(value_type, arrays) {
  const type_table types;
  EXPECT_EQ(written(types, int_array, "{}"), "[]");
  EXPECT_EQ(written(types, int_array, "{1,NULL,-3}"), "[1,null,-3]");
  EXPECT_EQ(written(types, int_array, "[0:1][2:3]={{1,2},{3,4}}"), "[[1,2],[3,4]]");
  EXPECT_EQ(written(types, text_array, R"_({a,"b c",NULL,"NULL","","q\"","\\","{x}","a,b"})_"),
            R"(["a","b c",null,"NULL","","q\"","\\","{x}","a,b"])");
  EXPECT_EQ(written(types, box_array, "{(3,4),(1,2);(7,8),(5,6)}"), R"_(["(3,4),(1,2)","(7,8),(5,6)"])_");
  EXPECT_EQ(written(types, int2vector, "1 2 3"), "[1,2,3]");
  EXPECT_EQ(written(types, int2vector, ""), "[]");
}

TEST(value_type, composites_domains_and_what_they_are_made_of) {
  type_table types;
  EXPECT_EQ(types.find(20'000), nullptr);
  types.add({{.type = 20'000, .base = 0, .element = 0, .attributes = {{"x", integer}, {"say \"hi\"", text}, {"parts", 20'001}}},
             {.type = 20'001, .base = 0, .element = 20'002, .attributes = {}},
             {.type = 20'002, .base = 20'003, .element = 0, .attributes = {}},
             {.type = 20'003, .base = 0, .element = 0, .attributes = {{"n", 1700}}}},
            {20'000});
  EXPECT_EQ(written(types, 20'000, R"_((1,"a ""b"" \\ (c)","{(1.5),NULL,()}"))_"),
            R"_({"x":1,"say \"hi\"":"a \"b\" \\ (c)","parts":[{"n":1.5},null,{"n":null}]})_");
  EXPECT_EQ(written(types, 20'000, "(,,)"), R"({"x":null,"say \"hi\"":null,"parts":null})");
}

TEST(value_type, what_does_not_fit_its_type_is_a_string) {
  type_table types;
  types.add({{.type = 20'000, .base = 0, .element = 0, .attributes = {{"x", integer}}}}, {20'000, 20'009});
  for (const auto* bad : {"", "{", "{1", "{1,", "{1}x", "1", "{{1}", "[0:1]", "{\"1}", "{1\\", "{{{{{{{{1}}}}}}}}"})
    EXPECT_TRUE(written(types, int_array, bad).starts_with('"')) << bad;
  for (const auto* bad : {"", "(", "(1", "(1,2)", "1)", "(\"1)", "(1)x"}) EXPECT_TRUE(written(types, 20'000, bad).starts_with('"')) << bad;
  EXPECT_EQ(written(types, 20'009, "unknown to the catalog"), "\"unknown to the catalog\"");
}

TEST(value_type, a_type_made_of_itself_ends) {
  type_table types;
  types.add({{.type = 1, .base = 0, .element = 2, .attributes = {}},
             {.type = 2, .base = 0, .element = 1, .attributes = {}},
             {.type = 3, .base = 4, .element = 0, .attributes = {}},
             {.type = 4, .base = 3, .element = 0, .attributes = {}}},
            {1, 3});
  EXPECT_TRUE(is_json(written(types, 1, "{{1}}")));
  EXPECT_TRUE(is_json(written(types, 3, "x")));
}

}  // namespace
}  // namespace postbus::feeds
