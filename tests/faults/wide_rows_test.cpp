// Rows as wide as PostgreSQL makes them: 1,600 columns, through the feed, a filter and a snapshot.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/json.hpp>

#include "bus/shard.hpp"
#include "feeds/binding.hpp"
#include "feeds/snapshots.hpp"
#include "feeds/view.hpp"
#include "integration/change_rig.hpp"

namespace postbus {
namespace {

namespace asio = boost::asio;
using testing_support::change_rig;
using testing_support::database;
using testing_support::session;

constexpr int widest = 1600;

/** A table of 1,600 columns: id, one text that is TOASTed, small numbers. */
std::string wide_table(const char* name, const char* identity) {
  std::string sql = fmt::format("create table {}(id int primary key, big text", name);
  for (int i = 2; i < widest; ++i) sql += fmt::format(", c{} smallint", i);
  return sql + fmt::format("); alter table {0} alter big set storage external, replica identity {1}; select postbus.watch('{0}');", name,
                           identity);
}

/** A row with a value in every column. */
std::string wide_row(const char* name, int id) {
  std::string sql = fmt::format("insert into {} values ({}, repeat('wide ', 4000)", name, id);
  for (int i = 2; i < widest; ++i) sql += fmt::format(", {}", (i * 37 + id) % 32768);
  return sql + ");";
}

/** The text of `data`; no value here has a brace. */
std::string data_of(std::string_view payload) {
  const auto from = payload.find("\"data\":") + 7;
  return std::string{payload.substr(from, payload.find('}', from) + 1 - from)};
}

TEST(wide_rows, of_1600_columns_are_written_as_row_to_json_does) {
  database db;
  db.psql(wide_table("w", "default") + wide_table("f", "full"));
  change_rig rig{db};
  rig.start();
  for (const auto* table : {"w", "f"}) {
    db.psql(wide_row(table, 1));
    const auto inserted = db.psql(fmt::format("select row_to_json(r)::text from {} r", table));
    db.psql(fmt::format("update {} set c1599 = -1, c2 = null", table));
    const auto updated = db.psql(fmt::format("select row_to_json(r)::text from {} r", table));
    db.psql(fmt::format("delete from {}", table));
    const auto got = rig.payloads(fmt::format("table:public.{}", table), 3);
    ASSERT_EQ(got.size(), 3u);
    EXPECT_EQ(data_of(got[0]), inserted);
    const auto update = boost::json::parse(got[1]).as_object();
    if (*table == 'w') {
      EXPECT_EQ(boost::json::serialize(update.at("unchanged")), R"(["big"])");
      auto without = boost::json::parse(updated).as_object();
      without.erase("big");
      EXPECT_EQ(update.at("data").as_object(), without);
      EXPECT_EQ(data_of(got[2]), R"({"id":1})");
    } else {
      EXPECT_EQ(data_of(got[1]), updated);
      EXPECT_EQ(update.at("old"), boost::json::parse(inserted));
      EXPECT_EQ(data_of(got[2]), updated);
    }
  }
}

TEST(wide_rows, beyond_a_page_are_refused_by_the_server_and_harm_nothing) {
  database db;
  std::string sql = "create table w(id int primary key", row = "insert into w values (1";
  for (int i = 1; i < widest; ++i) {
    sql += fmt::format(", c{} text", i);
    row += ", repeat('x', 100)";
  }
  db.psql(sql + "); select postbus.watch('w')");
  change_rig rig{db};
  rig.start();
  EXPECT_EQ(db.refused(row + ")").state, "54000") << "1,600 values of 100 bytes do not fit into a page of 8 kB";
  db.psql("insert into w(id, c1599) values (2, 'fits')");
  const auto got = rig.payloads("table:public.w", 1);
  EXPECT_EQ(data_of(got[0]), db.psql("select row_to_json(w)::text from w"));
}

TEST(wide_rows, that_were_altered_1600_times_keep_their_columns_apart) {
  database db;
  db.psql("create table w(id int primary key, a0 int); select postbus.watch('w')");
  change_rig rig{db};
  rig.start();
  // Dropped columns count: after 1,598 of them there is room for none.
  for (int i = 0; i < 1598; i += 94) {
    std::string sql = "begin;";
    for (int k = i; k < i + 94; ++k) sql += fmt::format("alter table w drop a{}, add a{} int;", k, k + 1);
    db.psql(sql + fmt::format("insert into w values ({0}, {0}); commit", i));
  }
  EXPECT_EQ(db.refused("alter table w add one_more int").state, "54011");
  const auto expected = db.psql("select count(*) from w");
  rig.catch_up(db);
  std::size_t rows = 0, announced = 0;
  for (const auto& e : rig.events("table:public.w")) {
    if (e->kind == bus::kind::schema) ++announced;
    if (e->kind != bus::kind::insert) continue;
    const auto i = static_cast<int>(rows++) * 94;
    EXPECT_EQ(data_of(e->payload), fmt::format(R"({{"id":{0},"a{1}":{0}}})", i, i + 94));
  }
  EXPECT_EQ(std::to_string(rows), expected);
  EXPECT_EQ(announced, rows - 1) << "the first change is the one by which the table is known";
}

/** One subscriber of a filter. */
struct viewer : bus::listener {
  void on_event(bus::topic&, const bus::event_ref& e) override { kinds.push_back(e->kind); }
  std::vector<bus::kind> kinds;
};

asio::awaitable<void> open_view(change_rig& rig, std::string url, std::string where, std::shared_ptr<const feeds::view>& into) {
  auto session = co_await postgres::connection::open({.conninfo = std::move(url)});
  auto bound = co_await feeds::bind_view(*session, "table:public.f", {.where = std::move(where)});
  if (!bound) throw std::runtime_error{bound.error().text + bound.error().detail};
  into = rig.feeds->views().open(std::move(*bound), rig.loop.get_executor());
}

TEST(wide_rows, pass_a_filter_on_their_last_column) {
  database db;
  db.psql(wide_table("f", "full"));
  change_rig rig{db};
  bus::shard shard{rig.hub, {}, [] {}};
  rig.start();
  std::shared_ptr<const feeds::view> view;
  testing_support::run(rig.loop, open_view(rig, db.url(), "c1599 = 7 and id < 3", view));
  viewer seen;
  shard.subscribe(seen, view->channel(), bus::from_now{}, view->feed());
  for (int id = 1; id <= 3; ++id) db.psql(wide_row("f", id));
  db.psql("update f set c1599 = 7; update f set c2 = 0; update f set c1599 = 8 where id = 1; delete from f");
  rig.catch_up(db);
  shard.deliver();
  using enum bus::kind;
  EXPECT_EQ(seen.kinds, (std::vector{enter, enter, update, update, leave, delete_}));
  shard.unsubscribe(seen, view->channel());
}

asio::awaitable<void> open_rows(feeds::snapshots& from, result<std::unique_ptr<feeds::spool_reader>>& into) {
  into = co_await from.open("table:public.w", nullptr);
}

TEST(wide_rows, come_by_snapshot_as_they_come_live) {
  database db;
  db.psql(wide_table("w", "default"));
  change_rig rig{db};
  rig.start();
  int fills = 0;
  feeds::snapshots rows{rig.loop.get_executor(),
                        {.conninfo = db.url(), .shared_for = {}},
                        rig.hub,
                        *rig.reader,
                        [&](std::string_view, asio::awaitable<void> work) {
                          ++fills;
                          asio::co_spawn(rig.loop, std::move(work), [&fills](const std::exception_ptr&) { --fills; });
                        }};
  for (int id = 1; id <= 20; ++id) db.psql(wide_row("w", id));
  const auto live = rig.payloads("table:public.w", 20);
  result<std::unique_ptr<feeds::spool_reader>> opened{error{}};
  testing_support::run(rig.loop, open_rows(rows, opened));
  ASSERT_TRUE(opened) << opened.error().text;
  std::vector<std::string> got;
  rig.wait([&] {
    for (;;) {
      const auto next = (*opened)->next([] {});
      if (!next) throw std::runtime_error{next.error().text};
      if (!*next) return (*opened)->finished();
      got.emplace_back(**next);
    }
  });
  opened->reset();
  ASSERT_EQ(got.size(), live.size());
  for (std::size_t i = 0; i < live.size(); ++i) EXPECT_EQ(data_of(got[i]), data_of(live[i]));
  rows.stop();
  rig.wait([&] { return fills == 0; });
}

}  // namespace
}  // namespace postbus
