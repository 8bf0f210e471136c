#include "feeds/filter.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "feeds/predicate.hpp"
#include "feeds/sort_key.hpp"

namespace postbus::feeds {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<column_facts>& columns() {
  static const std::vector<column_facts> all{
      {.name = "a", .type = 23, .kind = comparable::integer, .type_name = "integer", .cast = "pg_catalog.int4"},
      {.name = "b", .type = 16, .kind = comparable::boolean, .type_name = "boolean", .cast = "pg_catalog.bool"},
      {.name = "t", .type = 25, .kind = comparable::text, .type_name = "text", .cast = "pg_catalog.text"},
      {.name = "Odd \"name\"", .type = 25, .kind = comparable::text, .type_name = "text", .cast = "pg_catalog.text", .ordered = false},
      {.name = "secret", .type = 25, .kind = comparable::text, .type_name = "text", .cast = "pg_catalog.text", .hidden = true},
  };
  return all;
}

/** As PostgreSQL writes them, for what these tests say. */
std::optional<std::string> canonical(std::string_view column, std::string_view text) {
  if (column == "b") return std::string{text == "true" || text == "yes" ? "t" : "f"};
  return std::string{text.starts_with('+') ? text.substr(1) : text};
}

result<predicate> bind(std::string_view text) {
  auto written = parse_filter(text);
  if (!written) return written.error();
  return predicate::bind(*written, columns(), canonical);
}
std::string sql(std::string_view text) {
  auto bound = bind(text);
  return bound ? std::string{bound->sql()} : bound.error().text;
}

/** a, b, t of one row; a text that begins with ! is NULL, with ? not known. */
truth judge(std::string_view text, std::array<std::string_view, 3> row) {
  const auto bound = bind(text).value();
  row_values values;
  values.reset(3);
  for (std::size_t i = 0; i < 3; ++i)
    if (!row[i].starts_with('?'))
      values.set(i, {row[i].starts_with('!') ? postgres::pgoutput::value_kind::null : postgres::pgoutput::value_kind::text, row[i]});
  std::vector<std::uint16_t> places;
  for (const auto& c : bound.columns()) places.push_back(c.name == "a" ? 0 : c.name == "b" ? 1 : 2);
  return bound.test(values, places);
}

TEST(filter, is_written_as_sql_and_equal_ones_alike) {
  EXPECT_EQ(sql("a = 1"), R"("a" = '1'::pg_catalog.int4)");
  EXPECT_EQ(sql(" A=+1 "), sql("a = 1")) << "names are folded, the rest is as PostgreSQL writes it";
  EXPECT_EQ(sql("a in (3, 1, 3, null)"), R"("a" in ('1'::pg_catalog.int4, '3'::pg_catalog.int4, null::pg_catalog.int4))");
  EXPECT_EQ(sql("a > 1 and not b or t like 'x#%' escape '#'"),
            R"((("a" > '1'::pg_catalog.int4) and (not ("b" = 't'::pg_catalog.bool))) or ("t" like 'x#%' escape '#'))");
  EXPECT_EQ(sql("\"Odd \"\"name\"\"\" != 'it''s'"), R"("Odd ""name""" <> 'it''s'::pg_catalog.text)");
  EXPECT_EQ(sql("t is not null"), R"("t" is not null)");
  EXPECT_EQ(sql("t not like 'a'"), R"("t" not like 'a' escape  E'\\')");
}

TEST(filter, errors_tell_the_place) {
  EXPECT_THAT(sql("a = "), HasSubstr("at character 5"));
  EXPECT_THAT(sql("a = 1 b"), HasSubstr("at character 7: AND, OR or the end"));
  EXPECT_THAT(sql("(a = 1"), HasSubstr("at character 7: a closing parenthesis"));
  EXPECT_THAT(sql("t = 'abc"), HasSubstr("at character 5: the text that begins here has no closing quote"));
  EXPECT_THAT(sql("a = 1; drop table x"), HasSubstr("at character 6: this character has no meaning"));
  EXPECT_THAT(sql("1 = a"), HasSubstr("to the right"));
  EXPECT_THAT(sql("a = 12ab"), HasSubstr("this is no number"));
  EXPECT_THAT(sql("a = 1 -- x"), HasSubstr("at character 7"));
  EXPECT_THAT(sql("t like 'a\\'"), HasSubstr("must not end with its escape"));
  EXPECT_THAT(sql("secret = 'x'"), HasSubstr("no column secret; it has: a, b, t"));
  EXPECT_THAT(sql("\"Odd \"\"name\"\"\" < 'x'"), HasSubstr("collation"));
  EXPECT_THAT(sql("\"A\" = 1"), HasSubstr("no column A")) << "quoted names are not folded";
  EXPECT_THAT(sql(""), HasSubstr("a condition is expected"));
}

TEST(filter, is_bounded) {
  EXPECT_THAT(sql(std::string(max_filter_bytes + 1, ' ')), HasSubstr("at most"));
  EXPECT_THAT(sql(std::string(40, '(') + "a = 1" + std::string(40, ')')), HasSubstr("nested too deeply"));
  std::string nots;
  for (int i = 0; i < 40; ++i) nots += "not ";
  EXPECT_THAT(sql(nots + "b"), HasSubstr("nested too deeply"));
  std::string many = "a in (1";
  for (int i = 0; i < 1001; ++i) many += ",1";
  EXPECT_THAT(sql(many + ")"), HasSubstr("more than 1000 literals"));
  std::string bare = "b";
  for (int i = 0; i < 1001; ++i) bare += " or b";
  EXPECT_THAT(sql(bare), HasSubstr("too many conditions"));
}

TEST(filter, has_sql_s_three_values_and_one_for_what_the_row_does_not_tell) {
  EXPECT_EQ(judge("a = 1", {"1", "t", ""}), truth::yes);
  EXPECT_EQ(judge("a = 1", {"!", "t", ""}), truth::null);
  EXPECT_EQ(judge("a = 1", {"?", "t", ""}), truth::unknown);
  EXPECT_EQ(judge("a = null", {"1", "t", ""}), truth::null);
  EXPECT_EQ(judge("not a = 1", {"!", "t", ""}), truth::null);
  EXPECT_EQ(judge("a = 1 and b", {"!", "f", ""}), truth::no);
  EXPECT_EQ(judge("a = 1 or b", {"!", "t", ""}), truth::yes);
  EXPECT_EQ(judge("a = 1 and b", {"?", "f", ""}), truth::no) << "what is not known does not matter then";
  EXPECT_EQ(judge("a = 1 or b", {"?", "!", ""}), truth::unknown);
  EXPECT_EQ(judge("a in (1, null)", {"2", "t", ""}), truth::null);
  EXPECT_EQ(judge("a not in (1, null)", {"1", "t", ""}), truth::no);
  EXPECT_EQ(judge("a is null", {"!", "t", ""}), truth::yes);
  EXPECT_EQ(judge("a is null", {"?", "t", ""}), truth::unknown);
  EXPECT_EQ(judge("a > 9", {"10", "t", ""}), truth::yes) << "numbers, not texts";
}

TEST(filter, like_counts_characters) {
  EXPECT_EQ(judge("t like '_'", {"1", "t", "ä"}), truth::yes);
  EXPECT_EQ(judge("t like '%b%d'", {"1", "t", "abcbd"}), truth::yes);
  EXPECT_EQ(judge("t like '%b%d'", {"1", "t", "abcd!"}), truth::no);
  EXPECT_EQ(judge("t like 'a\\_c'", {"1", "t", "abc"}), truth::no);
  EXPECT_EQ(judge("t like 'a\\_c' escape ''", {"1", "t", "a\\bc"}), truth::yes);
  EXPECT_EQ(judge("t not like '%'", {"1", "t", ""}), truth::no);
}

TEST(filter, finds_the_condition_that_an_index_can_serve) {
  const auto keys = [](std::string_view text) {
    const auto bound = bind(text).value();
    const auto found = bound.find_lookup();
    return found ? bound.columns()[found->column].name + ":" + std::to_string(found->keys.size()) : std::string{"none"};
  };
  EXPECT_EQ(keys("a = 1"), "a:1");
  EXPECT_EQ(keys("a in (1,2,3) and t = 'x'"), "t:1") << "the fewest values";
  EXPECT_EQ(keys("b and a in (1,2) and t like 'x%'"), "b:1");
  EXPECT_EQ(keys("a = 1 or t = 'x'"), "none");
  EXPECT_EQ(keys("not (a = 1)"), "none");
  EXPECT_EQ(keys("a not in (1)"), "none");
  EXPECT_EQ(keys("a = null"), "none");
}

TEST(filter, names_of_columns) {
  EXPECT_THAT(parse_names("a, \"B\" ,C").value(), ElementsAre("a", "B", "c"));
  EXPECT_TRUE(parse_names("a,").has_error());
  EXPECT_TRUE(parse_names("").has_error());
  EXPECT_TRUE(parse_names("a b").has_error());
}

std::string key(comparable kind, std::string_view text) {
  std::string out;
  EXPECT_TRUE(append_sort_key(out, kind, text)) << text;
  return out;
}

TEST(sort_key, sorts_as_the_values_do) {
  const auto ascending = [](comparable kind, std::vector<std::string_view> values) {
    for (std::size_t i = 1; i < values.size(); ++i)
      EXPECT_LT(key(kind, values[i - 1]), key(kind, values[i])) << values[i - 1] << " and " << values[i];
  };
  ascending(comparable::integer, {"-9223372036854775808", "-10", "-9", "0", "9", "10", "9223372036854775807"});
  ascending(comparable::float8, {"-Infinity", "-1e+300", "-1", "0", "1e-300", "1", "Infinity", "NaN"});
  ascending(comparable::numeric,
            {"-Infinity", "-100", "-1.55", "-1.5", "-0.01", "0", "0.001", "0.01", "1", "1.05", "1.5", "9", "10", "Infinity", "NaN"});
  ascending(comparable::date, {"-infinity", "0044-03-15 BC", "0001-01-01", "2026-11-22", "12026-01-01", "infinity"});
  ascending(comparable::timestamptz, {"-infinity", "0044-03-15 01:02:03+00 BC", "2026-11-22 01:02:03+00", "2026-11-22 01:02:03.000001+00",
                                      "2026-11-22 01:02:03.1+00", "infinity"});
  ascending(comparable::time, {"00:00:00", "12:34:56.7", "12:34:56.789", "24:00:00"});
  EXPECT_EQ(key(comparable::numeric, "1.0"), key(comparable::numeric, "1.000"));
  EXPECT_EQ(key(comparable::numeric, "-0.0"), key(comparable::numeric, "0"));
  EXPECT_EQ(key(comparable::float8, "-0"), key(comparable::float8, "0"));
  EXPECT_EQ(key(comparable::blank_padded, "a  "), key(comparable::blank_padded, "a"));
}

TEST(sort_key, refuses_what_postgresql_does_not_write) {
  std::string out{"kept"};
  for (const auto& [kind, text] :
       std::initializer_list<std::pair<comparable, std::string_view>>{{comparable::integer, "1.5"},
                                                                      {comparable::integer, ""},
                                                                      {comparable::boolean, "true"},
                                                                      {comparable::float8, "1x"},
                                                                      {comparable::numeric, "."},
                                                                      {comparable::numeric, "1e5"},
                                                                      {comparable::date, "2026-1-1"},
                                                                      {comparable::timestamp, "2026-11-22 01:02:03+00"},
                                                                      {comparable::timestamptz, "2026-11-22 01:02:03"},
                                                                      {comparable::time, "1:2:3"}}) {
    EXPECT_FALSE(append_sort_key(out, kind, text)) << text;
    EXPECT_EQ(out, "kept");
  }
}

}  // namespace
}  // namespace postbus::feeds
