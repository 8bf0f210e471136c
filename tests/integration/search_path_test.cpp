// Under which search_path statements run: ours under pg_catalog alone and never compiled, whatever the role's settings are; names of
// a user's under the role's own.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "feeds/catalog.hpp"
#include "postgres/connection.hpp"
#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/pooler.hpp"

namespace postbus {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using postgres::connection;
using testing_support::database;
using testing_support::pooler;
using testing_support::run;
using testing_support::session;

constexpr std::string_view pinned = "pg_catalog, pg_temp, jit off";
constexpr std::string_view path = "select current_setting('search_path') || ', jit ' || current_setting('jit')";

asio::awaitable<connection> open(std::string url, bool replication = false) {
  auto opened = co_await connection::open({.conninfo = std::move(url), .replication = replication});
  if (!opened) throw std::runtime_error{opened.error().text + ": " + opened.error().detail};
  co_return std::move(*opened);
}

/** Each way to run a statement. */
asio::awaitable<void> expect_pinned(connection& c) {
  const auto text = [](const result<postgres::rows>& r) { return r ? std::string{r->text(0, 0)} : r.error().detail; };
  EXPECT_EQ(text(co_await c.query(path, {}, 5s)), pinned);
  EXPECT_EQ(text(co_await c.execute(path, 5s)), pinned);
  const connection::statement several[] = {{path, {}, true}, {path, {}, false}, {path, {}, false}};
  auto all = co_await c.pipeline(several, 5s);
  EXPECT_TRUE(all) << all.error().detail;
  if (all)
    for (const auto& one : *all) EXPECT_EQ(text(one), pinned);
  EXPECT_EQ(text(co_await c.execute(fmt::format("begin; {}", path), 5s)), pinned);
  EXPECT_EQ(text(co_await c.query(path, {}, 5s)), pinned);
  EXPECT_EQ(text(co_await c.query("select nonsense", {}, 5s)), "[42703] column \"nonsense\" does not exist");
  EXPECT_EQ(text(co_await c.query(path, {}, 5s)).substr(0, 7), "[25P02]");
  const auto ended = co_await c.execute("rollback", 5s);
  EXPECT_TRUE(ended) << "a transaction that failed can be ended";
  EXPECT_EQ(text(co_await c.query("select nonsense", {}, 5s)), "[42703] column \"nonsense\" does not exist");
  EXPECT_EQ(text(co_await c.query(path, {}, 5s)), pinned);
}

TEST(search_path, of_every_session_is_pg_catalog) {
  const database db;
  db.psql(fmt::format("alter database {0} set search_path = public, pg_catalog; alter database {0} set jit = on", db.name()));
  run([](std::string url) -> asio::awaitable<void> {
    auto c = co_await open(url);
    EXPECT_FALSE(c.pooled());
    co_await expect_pinned(c);
    const auto own = co_await c.query_in_own_path("select pg_catalog.current_setting('search_path')", {}, 5s);
    EXPECT_EQ(own->text(0, 0), "public, pg_catalog");
    co_await expect_pinned(c);
    auto replicating = co_await open(url, true);
    const auto there = co_await replicating.execute(path, 5s);
    EXPECT_EQ(there->text(0, 0), pinned);
    auto said = co_await open(url + (url.contains('?') ? "&" : "?") + "options=-csearch_path%3Dmine");
    co_await expect_pinned(said);
    const auto asked_for = co_await said.query_in_own_path("select pg_catalog.current_setting('search_path')", {}, 5s);
    EXPECT_EQ(asked_for->text(0, 0), "mine") << "what the URL says is the role's own";
  }(db.url()));
}

TEST(search_path, behind_a_pooler_is_set_for_each_transaction_and_for_nobody_else) {
  ASSERT_TRUE(pooler::is_there()) << "pgbouncer is not installed: ./dev test installs it";
  const database db;
  db.psql("create table orders(id int primary key); select postbus.watch('orders')");
  const pooler between{db};
  session other{between.url()};
  run([](std::string url) -> asio::awaitable<void> {
    auto c = co_await open(url);
    EXPECT_TRUE(c.pooled());
    co_await expect_pinned(c);
    const auto channel = co_await feeds::find_feed(c, "Orders");
    EXPECT_EQ(channel ? *channel : channel.error().detail, "table:public.orders");
    co_await expect_pinned(c);
  }(between.url()));
  EXPECT_EQ(other.psql("show search_path"), "public") << "the server's session is another's as well";
  EXPECT_EQ(other.psql("show jit"), "on");
}

TEST(search_path, of_the_role_finds_the_tables_that_a_user_names) {
  const database db;
  db.psql(
      "create schema shop; create table shop.orders(id int primary key); create table public.orders(id int primary key); "
      "create table public.\"Odd\"(id int primary key); select postbus.watch('shop.orders'), postbus.watch('public.\"Odd\"')");
  db.psql(fmt::format("alter database {} set search_path = shop, public", db.name()));
  run([](std::string url) -> asio::awaitable<void> {
    auto c = co_await open(url);
    for (const auto& [name, channel] : std::initializer_list<std::pair<const char*, const char*>>{{"orders", "table:shop.orders"},
                                                                                                  {"ORDERS", "table:shop.orders"},
                                                                                                  {"\"Odd\"", "table:public.Odd"},
                                                                                                  {"public.Odd", "table:public.Odd"},
                                                                                                  {"Shop.Orders", "table:shop.orders"}}) {
      const auto found = co_await feeds::find_feed(c, name);
      EXPECT_EQ(found ? *found : found.error().text, channel) << name;
    }
    for (const auto* const name : {"odd", "public.orders", "nowhere", "pg_class"}) {
      const auto found = co_await feeds::find_feed(c, name);
      EXPECT_TRUE(!found && found.error().code == errc::not_watched) << name;
    }
    for (const auto* const name : {"", "a.b.c.d", "\"unclosed"}) {
      const auto found = co_await feeds::find_feed(c, name);
      EXPECT_TRUE(!found && found.error().text.contains("cannot be the name of a table")) << name;
    }
  }(db.url()));
}

}  // namespace
}  // namespace postbus
