// Filtered feeds against a real PostgreSQL: what a view shows live and on resume, that every comparison agrees with the
// server's own, and what DDL does to it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include <random>

#include "postgres/migrations.hpp"
#include "postgres/probe.hpp"
#include "viewing.hpp"

namespace postbus::feeds {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::change_rig;
using testing_support::database;
using testing_support::session;
using testing_support::viewing;

TEST(filters, show_enter_update_leave_and_delete_exactly_where_the_identity_carries_the_column) {
  database db;
  db.psql(
      "create table o(id int primary key, st text not null, note text); create unique index o_id on o(id, st); alter table o replica "
      "identity using index o_id; select postbus.watch('o');"
      "create table f(id int primary key, st text, note text); alter table f replica identity full; select postbus.watch('f')");
  for (const auto* table : {"o", "f"}) {
    change_rig rig{db};
    rig.start();
    {
      viewing v{rig, db};
      v.see(table, {.where = "st = 'open'"});
      db.psql(fmt::format("insert into {0} values (1, 'open', 'a'), (2, 'done', 'b')", table));
      db.psql(fmt::format("update {0} set note = note || '!'", table));
      db.psql(fmt::format("update {0} set st = 'done' where id = 1; update {0} set st = 'open' where id = 2", table));
      db.psql(fmt::format("delete from {0}; truncate {0}", table));
      const bool full = *table == 'f';
      EXPECT_THAT(
          v.after(db),
          ElementsAre(R"(insert {"id":1,"st":"open","note":"a"})",
                      std::string{R"(update {"id":1,"st":"open","note":"a!"})"} + (full ? R"( old {"id":1,"st":"open","note":"a"})" : ""),
                      full ? R"(leave {"id":1})" : R"(leave {"id":1,"st":"open"})", R"(enter {"id":2,"st":"open","note":"b!"})",
                      full ? R"(delete {"id":2,"st":"open","note":"b!"})" : R"(delete {"id":2,"st":"open"})", "truncate null"));
    }
    viewing again{rig, db};
    again.see(table, {.where = "st = 'open'"}, bus::from_beginning{});
    EXPECT_EQ(again.got.size(), 6u) << "a view resumes from its feed's history";
    EXPECT_EQ(again.got[2].substr(0, 5), "leave");
  }
}

TEST(filters, refuse_what_cannot_be_known_with_the_sql_that_mends_it_or_flag_it_maybe) {
  database db;
  db.psql("create table o(id int primary key, st text, \"Odd\" int); select postbus.watch('o')");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  const auto refused = v.open("o", {.where = "st = 'open' and \"Odd\" = 1"});
  ASSERT_TRUE(refused.has_error());
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_THAT(
      refused.error().text,
      HasSubstr(
          R"(alter table public.o alter st set not null; alter table public.o alter "Odd" set not null; create unique index postbus_identity_3_o on public.o (id, st, "Odd"); alter table public.o replica identity using index postbus_identity_3_o;)"));
  EXPECT_TRUE(v.open("o", {.where = "id in (1, 2)"})) << "the key alone is exact";
  v.see("o", {.where = "st = 'open'", .maybe = true});
  db.psql("insert into o values (1, 'open', 1), (2, 'done', 1)");
  db.psql("update o set \"Odd\" = 2; delete from o");
  EXPECT_THAT(v.after(db), ElementsAre(R"(insert {"id":1,"st":"open","Odd":1})", R"(enter {"id":1,"st":"open","Odd":2} maybe)",
                                       R"(leave {"id":2} maybe)", R"(delete {"id":1} maybe)", R"(delete {"id":2} maybe)"));
  // What is recommended makes it exact, for one table as for another, one filter after the other. Doctor's advice has the same names.
  db.psql("update o set st = '', \"Odd\" = 0; create table \"Odd o\"(id int primary key, st text); select postbus.watch('\"Odd o\"')");
  for (const auto* const filter : {"st = 'open'", "\"Odd\" = 1"}) {
    const auto advice = v.open("o", {.where = filter}).error().text;
    const auto from = advice.find("alter table public.o alter");
    ASSERT_NE(from, std::string::npos) << advice;
    db.psql(advice.substr(from, advice.find("; or, ") - from));
    EXPECT_TRUE(v.open("o", {.where = filter})) << advice;
  }
  const auto other = v.open("Odd o", {.where = "st = 'open'"}).error().text;
  EXPECT_THAT(other, HasSubstr(R"(create unique index "postbus_identity_2_Odd o" on public."Odd o" (id, st);)"));
  const auto from = other.find("alter table");
  db.psql(other.substr(from, other.find("; or, ") - from));
  const auto facts = testing_support::run(postgres::probe(db.url(), db.url(), std::chrono::seconds{10}));
  ASSERT_TRUE(facts);
  std::string fixes;
  for (const auto& f : postgres::examine(*facts, postgres::schema_version()))
    if (f.subject == "filters") fixes += f.fix;
  EXPECT_THAT(fixes, HasSubstr(R"(create unique index postbus_identity_4_o on public.o (id, st, "Odd", COLUMN);)"));
  EXPECT_THAT(fixes, HasSubstr(R"(create unique index "postbus_identity_3_Odd o" on public."Odd o" (id, st, COLUMN);)"));
}

TEST(filters, choose_columns_and_keep_the_key_of_what_is_gone) {
  database db;
  db.psql(
      "create table c(id int primary key, st text, a int, hidden int); alter table c replica identity full; select postbus.watch('c', "
      "columns => '{id,st,a}')");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  v.see("c", {.where = "st = 'x'", .columns = {{"a"}}});
  db.psql("insert into c values (1, 'x', 5, 0); update c set a = 6; update c set st = 'y'; update c set st = 'x'; delete from c");
  EXPECT_THAT(v.after(db), ElementsAre(R"(insert {"a":5})", R"(update {"a":6} old {"a":5})", R"(leave {"id":1})", R"(enter {"a":6})",
                                       R"(delete {"id":1,"a":6})"));
  for (const auto* where : {"hidden = 1", "nowhere = 1", "hidden = 'no number'", "nowhere = 'no number'"}) {
    const auto refused = v.open("c", {.where = where});
    ASSERT_TRUE(refused.has_error());
    EXPECT_THAT(refused.error().text, HasSubstr("it has: id, st, a"));
  }
  EXPECT_EQ(v.open("c", {.where = {}, .columns = {{"hidden"}}}).error().code, errc::invalid_argument);
}

TEST(filters, are_refused_with_a_reason_and_no_words_of_the_server) {
  database db;
  db.psql(
      "create collation ndet (provider = icu, locale = 'und', deterministic = false); create collation german (provider = icu, locale = "
      "'de');"
      "create table r(id int primary key, n int, t text collate german, x text collate ndet, j jsonb, b boolean, d date); alter table r "
      "replica identity full; select postbus.watch('r')");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  const auto why = [&](const char* where) {
    const auto opened = v.open("r", {.where = where});
    if (opened) return std::string{"accepted"};
    EXPECT_EQ(opened.error().code, errc::invalid_argument) << where;
    return opened.error().text;
  };
  EXPECT_EQ(why("n = 'abc'"), "the filter: PostgreSQL takes 'abc' for no value of integer (column n)");
  EXPECT_EQ(why("n = 1 and d = '2026-02-30'"), "the filter: PostgreSQL takes '2026-02-30' for no value of date (column d)");
  EXPECT_THAT(why("t < 'a'"), HasSubstr("collation \"C\""));
  EXPECT_EQ(why("t = 'a'"), "accepted");
  EXPECT_THAT(why("x = 'a'"), HasSubstr("not deterministic"));
  EXPECT_THAT(why("j = '{}'"), HasSubstr("IS NULL alone"));
  EXPECT_EQ(why("j is null and b"), "accepted");
  EXPECT_THAT(why("t = 5"), HasSubstr("in quotes"));
  EXPECT_THAT(why("n like 'a'"), HasSubstr("LIKE is for text"));
  EXPECT_THAT(why("n = true"), HasSubstr("PostgreSQL takes 'true' for no value of integer"));
}

TEST(filters, survive_ddl_and_end_with_a_reason_where_they_cannot) {
  database db;
  db.psql("create table d(id int primary key, st text, n int); alter table d replica identity full; select postbus.watch('d')");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  const auto by_st = v.see("d", {.where = "st = 'x'"});
  db.psql("insert into d values (1, 'x', 1)");
  db.psql("alter table d add more text default 'm'");
  db.psql("insert into d values (2, 'x', 2)");
  db.psql("analyze d");
  db.psql("insert into d values (3, 'x', 3)");
  EXPECT_THAT(v.after(db), ElementsAre(R"(insert {"id":1,"st":"x","n":1})", R"(insert {"id":2,"st":"x","n":2,"more":"m"})", "schema",
                                       R"(insert {"id":3,"st":"x","n":3,"more":"m"})"));
  v.got.clear();
  db.psql("alter table d alter st type varchar(10)");
  db.psql("insert into d values (4, 'x', 4)");
  EXPECT_THAT(v.after(db), ElementsAre("ended"));
  EXPECT_TRUE(by_st->ended());
  EXPECT_EQ(by_st->why().code, errc::table_changed);
  v.got.clear();
  const auto anew = v.see("d", {.where = "st = 'x'"}, bus::from_beginning{});
  EXPECT_NE(anew.get(), by_st.get());
  EXPECT_THAT(v.got, ElementsAre("gap", R"(insert {"id":4,"st":"x","n":4,"more":"m"})", "schema"))
      << "what was of another type is a gap and no guess";
  v.got.clear();
  db.psql("alter table d rename st to state");
  db.psql("insert into d values (5, 'x', 5)");
  EXPECT_THAT(v.after(db), ElementsAre("ended"));
  EXPECT_EQ(anew->why().code, errc::conflict);
  EXPECT_THAT(anew->why().text, HasSubstr("no column st"));
  v.got.clear();
  v.see("d", {.where = "state = 'x'"});
  db.psql("alter table d replica identity default");
  db.psql("insert into d values (6, 'x', 6)");
  EXPECT_THAT(v.after(db), ElementsAre("ended")) << "no longer exact";
  v.got.clear();
  db.psql(
      "drop table d; create table d(id int primary key, state text, renewed int); alter table d replica identity full; select "
      "postbus.watch('d')");
  v.see("d", {.where = "state = 'x'"});
  db.psql("insert into d values (7, 'x', 7), (8, 'y', 8)");
  auto seen = v.after(db);
  EXPECT_EQ(seen.front(), "gap") << "listeners are told that the table was away, once or, where the gateway looks meanwhile, twice";
  std::erase(seen, "gap");
  EXPECT_THAT(seen, ElementsAre(R"(insert {"id":7,"state":"x","renewed":7})", "schema"));
}

TEST(filters, leave_the_registry_with_their_last_listener_and_share_what_is_equal) {
  database db;
  db.psql("create table s(id int primary key); select postbus.watch('s')");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  auto one = v.open("s", {.where = "id = 1 "}).value();
  auto other = v.open("s", {.where = "ID=01"}).value();
  EXPECT_EQ(one, other) << "equal filters are one view";
  EXPECT_NE(one, v.open("s", {.where = "id = 2"}).value());
  one.reset();
  other.reset();
  rig.wait([&] { return rig.feeds->views().size() == 0; });
}

TEST(filters, agree_with_postgresql_on_random_filters_and_rows) {
  database db;
  db.psql(
      "create type mood as enum ('sad', 'ok', 'glad'); alter type mood add value 'meh' before 'ok'; create domain cents as numeric; create "
      "domain names as varchar(8);"
      "create table p(id int primary key, b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, n numeric, nd cents, t text "
      "collate \"C\", td names collate \"C\", c char(4) collate \"C\","
      " u uuid, d date, ti time, ts timestamp, tz timestamptz, by bytea, e mood); alter table p replica identity full; select "
      "postbus.watch('p')");
  struct kind {
    const char* column;
    std::vector<const char*> values;
    bool like = false;
  };
  const std::vector<kind> kinds{
      {"b", {"t", "false", "yes"}},
      {"i2", {"-32768", "0", "7", "32767"}},
      {"i4", {"-2147483648", "-1", "0", "10", "9"}},
      {"i8", {"-9223372036854775808", "9223372036854775807", "0", "100"}},
      {"o", {"0", "4294967295", "2147483648"}},
      {"f4", {"NaN", "Infinity", "-Infinity", "0", "-0", "0.1", "1e-40", "-3.5"}},
      {"f8", {"NaN", "Infinity", "-Infinity", "-0", "0.1", "1e300", "-1e-300", "5"}},
      {"n",
       {"NaN", "Infinity", "-Infinity", "0", "0.00", "1.0", "1.00", "-1.5", "-1.55", "100", "0.001", "-0.001", "99999999999999999999.5"}},
      {"nd", {"1", "1.0", "-2", "NaN"}},
      {"t", {"", "a", "A", "ab", "a%", "a_b", "ä", "äb", "z\\", "NULL", "a b", "it''s"}, true},
      {"td", {"a", "ab", "ü"}, true},
      {"c", {"a", "a   ", "ab", "", "b"}, true},
      {"u", {"00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a12}"}},
      {"d", {"infinity", "-infinity", "2026-11-22", "0044-03-15 BC", "12026-01-01", "9999-12-31", "1 jan 2000"}},
      {"ti", {"00:00", "24:00:00", "12:34:56.789", "12:34:56.7"}},
      {"ts", {"infinity", "-infinity", "2026-11-22 01:02:03.004", "0044-03-15 01:02 BC", "12026-01-01 00:00", "2026-11-22"}},
      {"tz", {"infinity", "-infinity", "2026-11-22 01:02:03+05:45", "2026-11-21 19:17:03Z", "0044-03-15 BC", "12026-01-01 00:00+14"}},
      {"by", {"\\x", "\\x00ff", "\\x00", "\\x80", "abc"}},
      {"e", {"sad", "meh", "ok", "glad"}},
  };
  const char* const chosen = std::getenv("POSTBUS_SEED");
  const auto seed = chosen != nullptr ? static_cast<unsigned>(std::stoul(chosen)) : std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random{seed};
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>{0, below - 1}(random); };
  const auto value = [&](const kind& k) { return fmt::format("'{}'", k.values[pick(k.values.size())]); };

  change_rig rig{db};
  rig.start();
  std::string rows = "set timezone = 'UTC'; insert into p values ";
  for (int i = 0; i < 150; ++i) {
    rows += fmt::format("{}({}", i == 0 ? "" : ", ", i);
    for (const auto& k : kinds) rows += ", " + (pick(6) == 0 ? std::string{"null"} : value(k));
    rows += ')';
  }
  db.psql(rows);  // at once: the rig does not read meanwhile
  rig.catch_up(db);
  const auto all = rig.events("table:public.p");
  ASSERT_EQ(all.size(), 150u);

  std::function<std::string(int)> filter = [&](int depth) -> std::string {
    if (depth > 0 && pick(2) == 0) {
      switch (pick(3)) {
        case 0: return "(" + filter(depth - 1) + ") and (" + filter(depth - 1) + ")";
        case 1: return filter(depth - 1) + " or " + filter(depth - 1);
        default: return "not (" + filter(depth - 1) + ")";
      }
    }
    const auto& k = kinds[pick(kinds.size())];
    static constexpr const char* operators[] = {"=", "<>", "!=", "<", "<=", ">", ">="};
    static constexpr const char* patterns[] = {"'a%'",    "'%b'",    "'_b'", "'a\\%'", "'%'",     "'__'",   "''",    "'%ä%'", "'a_b%'",
                                               "'z\\\\'", "'%a%b%'", "'_%'", "'%_b'",  "'%\\_%'", "'%\\%'", "'_ %'", "'%ä_%'"};
    switch (pick(k.like ? 6u : 5u)) {
      case 0: return fmt::format("{} is {}null", k.column, pick(2) == 0 ? "not " : "");
      case 1: {
        std::string list;
        for (auto n = pick(3) + 1; n > 0; --n) list += (list.empty() ? "" : ", ") + (pick(8) == 0 ? std::string{"null"} : value(k));
        return fmt::format("{} {}in ({})", k.column, pick(2) == 0 ? "not " : "", list);
      }
      case 5:
        if (pick(4) == 0) return fmt::format("{} like 'a#%#_%' escape '#'", k.column);
        return fmt::format("{} {}like {}", k.column, pick(2) == 0 ? "not " : "", patterns[pick(std::size(patterns))]);
      default: return fmt::format("{} {} {}", k.column, operators[pick(std::size(operators))], pick(20) == 0 ? "null" : value(k));
    }
  };
  viewing v{rig, db};
  session truth_of{db.url()};
  truth_of.psql("set timezone = 'UTC'");
  std::size_t shown = 0;
  for (int round = 0; round < 300; ++round) {
    const auto where = filter(3);
    auto opened = v.open("p", {.where = where});
    ASSERT_TRUE(opened) << where << ": " << opened.error().text << " " << opened.error().detail;
    std::string mine = "{";
    for (const auto& e : replay_through(**opened, all))
      mine += fmt::format("{}{}", mine.size() > 1 ? "," : "",
                          boost::json::parse({e->payload.data(), e->payload.size()}).at("data").at("id").as_int64()),
          ++shown;
    mine += '}';
    const auto sql = std::string{(*opened)->filter()->sql()};
    EXPECT_EQ(mine, truth_of.psql(fmt::format("select coalesce(array_agg(id order by id), '{{}}') from p where ({}) is true", where)))
        << where;
    EXPECT_EQ(mine, truth_of.psql(fmt::format("select coalesce(array_agg(id order by id), '{{}}') from p where ({}) is true", sql)))
        << "as written for the server: " << sql << " of " << where;
    auto once_more = v.open("p", {.where = where});
    EXPECT_EQ(*once_more, *opened);
  }
  EXPECT_GT(shown, 1000u);
}

}  // namespace
}  // namespace postbus::feeds
