// The schema: installed by any number of programs at once, printed for a DBA, never taken back, and equal to its snapshot.
#include "postgres/migrations.hpp"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "support/cluster.hpp"

namespace postbus {
namespace {

using namespace std::chrono_literals;
using testing_support::cluster;
using testing_support::database;
using testing_support::run;
using testing_support::session;

boost::asio::awaitable<result<std::vector<postgres::migration>>> migrate(std::string url, bool allow_breaking = true) {
  auto opened = co_await postgres::connection::open({.conninfo = std::move(url)});
  if (!opened) co_return opened.error();
  auto done = co_await postgres::migrate(*opened, allow_breaking, 60s);
  co_return done;
}

boost::asio::awaitable<result<postgres::schema_state>> read(std::string url) {
  auto opened = co_await postgres::connection::open({.conninfo = std::move(url)});
  if (!opened) co_return opened.error();
  auto state = co_await postgres::read_schema(*opened, 10s);
  co_return state;
}

/** Everything of the schema that a user or a program can depend on, in a stable order. */
std::string dump(const database& db) {
  return db.psql(R"(
    with s as (select oid from pg_namespace where nspname = 'postbus')
    select entry from (
      select 1 k, c.relname::text n, format(E'%s %s (\n%s\n)', case c.relkind when 'r' then 'table' when 'v' then 'view' else c.relkind::text end, c.relname,
          (select string_agg(format('  %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then ' not null' else '' end,
                             coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')), E',\n' order by a.attnum)
           from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) entry
      from pg_class c, s where c.relnamespace = s.oid and c.relkind in ('r', 'v', 'm', 'S', 'p')
      union all
      select 2, c.conname, format('constraint %s on %s: %s', c.conname, c.conrelid::regclass, pg_get_constraintdef(c.oid)) from pg_constraint c, s where c.connamespace = s.oid
      union all
      select 3, p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p, s where p.pronamespace = s.oid
      union all
      select 4, pubname, format('publication %s: all tables %s, insert %s, update %s, delete %s, truncate %s, via root %s', pubname, puballtables, pubinsert, pubupdate, pubdelete,
             pubtruncate, pubviaroot) from pg_publication
      union all
      select 5, grantee || o, format('grant %s on %s to %s', rights, o, grantee) from (
        select coalesce(r.rolname, 'PUBLIC') grantee, o, string_agg(a.privilege_type, ', ' order by a.privilege_type) rights
        from (select p.oid::regprocedure::text o, p.proacl acl from pg_proc p, s where p.pronamespace = s.oid
              union all select c.oid::regclass::text, c.relacl from pg_class c, s where c.relnamespace = s.oid
              union all select 'schema postbus', n.nspacl from pg_namespace n, s where n.oid = s.oid) x, aclexplode(x.acl) a
        left join pg_roles r on r.oid = a.grantee where r.rolname is distinct from current_user group by 1, 2) g
    ) all_of_it order by k, n collate "C")");
}

TEST(migrations, install_the_schema_once) {
  const database db{database::with::nothing};
  EXPECT_EQ(run(read(db.url()))->version, 0);
  EXPECT_NE(postgres::check_schema(*run(read(db.url()))).error().text.find("run postbus setup"), std::string::npos);
  const auto first = run(migrate(db.url()));
  ASSERT_TRUE(first) << first.error().text << first.error().detail;
  EXPECT_EQ(first->size(), postgres::migrations().size());
  EXPECT_TRUE(postgres::check_schema(*run(read(db.url()))));
  const auto second = run(migrate(db.url()));
  ASSERT_TRUE(second) << second.error().text;
  EXPECT_TRUE(second->empty());
}

TEST(migrations, several_at_once_do_the_work_once) {
  const database db{database::with::nothing}, other{database::with::nothing};
  std::vector<std::thread> threads;
  std::atomic<std::size_t> applied{0}, failed{0};
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, url = i % 2 ? db.url() : other.url()] {
      const auto done = run(migrate(url));
      if (done)
        applied += done->size();
      else
        failed += 1, std::fprintf(stderr, "%s %s\n", done.error().text.c_str(), done.error().detail.c_str());
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failed, 0U);
  EXPECT_EQ(applied, 2 * postgres::migrations().size());
}

TEST(migrations, refuse_to_go_down_and_name_both_versions) {
  const database db;
  db.psql("insert into postbus.migrations values (900, '0900_future', false); update postbus.meta set schema_version = 900");
  const auto refused = run(migrate(db.url()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().text.find("version 900"), std::string::npos) << refused.error().text;
  EXPECT_NE(refused.error().text.find("knows " + std::to_string(postgres::schema_version())), std::string::npos) << refused.error().text;
  EXPECT_EQ(postgres::check_schema(*run(read(db.url()))).error().code, errc::conflict);
  EXPECT_EQ(db.psql("select schema_version from postbus.meta"), "900");
}

TEST(migrations, leave_nothing_behind_when_a_step_fails) {
  const database db{database::with::nothing};
  db.psql("create publication postbus");  // in the way of the first step
  const auto refused = run(migrate(db.url()));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("0001_ground"), std::string::npos) << refused.error().text;
  EXPECT_EQ(db.psql("select count(*) from pg_namespace where nspname = 'postbus'"), "0");
  db.psql("drop publication postbus");
  EXPECT_TRUE(run(migrate(db.url())));
}

TEST(migrations, printed_sql_makes_the_same_schema) {
  const database printed{database::with::nothing}, applied;
  printed.psql(postgres::print_setup());
  EXPECT_EQ(dump(printed), dump(applied));
  EXPECT_TRUE(postgres::check_schema(*run(read(printed.url()))));
  EXPECT_FALSE(printed.refused(postgres::print_setup()).state.empty());  // a second run changes nothing
  EXPECT_EQ(dump(printed), dump(applied));
}

TEST(migrations, make_the_schema_of_the_snapshot) {
  if (cluster::shared().psql("select current_setting('server_version_num')::int / 10000") != "15")
    GTEST_SKIP() << "the snapshot is as PostgreSQL 15 prints a schema";
  const database db;
  const std::string path = POSTBUS_SOURCE_DIR "/tests/integration/schema.snapshot";
  const auto now = dump(db) + "\n";
  if (std::getenv("POSTBUS_UPDATE_SNAPSHOT")) std::ofstream{path} << now;
  std::ostringstream before;
  before << std::ifstream{path}.rdbuf();
  EXPECT_EQ(now, before.str()) << "the schema has changed: a new migration is needed for that (never edit a released one); then run this "
                                  "test with POSTBUS_UPDATE_SNAPSHOT=1 and review the difference";
}

TEST(migrations, install_without_logical_wal_and_without_the_right_to_make_roles) {
  cluster plain{{{"wal_level", "replica"}}};
  plain.psql("create role owner login password 'x'");
  plain.psql("create database theirs owner owner");
  const auto done = run(migrate(plain.url_as("owner", "x", "theirs")));
  ASSERT_TRUE(done) << done.error().text << done.error().detail;
  session owner{plain.url_as("owner", "x", "theirs")};
  EXPECT_EQ(owner.psql("select postbus.post('a', 'b')"), "");
  owner.psql("create table t(id int primary key)");
  const auto refused = owner.refused("select postbus.watch('t')");
  EXPECT_EQ(refused.state, "PB011");
  EXPECT_NE(refused.hint.find("wal_level = logical"), std::string::npos);
  // A superuser makes the roles later; setup then grants what they need.
  plain.psql("create role postbus_poster; create role postbus_listener; create role postbus_worker; create role postbus_admin");
  ASSERT_TRUE(run(migrate(plain.url_as("owner", "x", "theirs"))));
  EXPECT_EQ(owner.psql("select has_function_privilege('postbus_poster', 'postbus.post(text, text)', 'execute')"), "t");
}

TEST(migrations, refuse_a_database_that_is_not_utf8) {
  auto& here = cluster::shared();
  const bool providers = here.psql("select current_setting('server_version_num')::int >= 150000") == "t";
  here.psql(fmt::format("create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' {} template template0",
                        providers ? "locale_provider libc" : ""));
  const auto refused = run(migrate(here.url("latin")));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text.find("LATIN1"), std::string::npos) << refused.error().text;
  here.psql("drop database latin");
}

}  // namespace
}  // namespace postbus
