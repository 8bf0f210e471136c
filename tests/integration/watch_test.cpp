// postbus.watch: which tables it takes, that users' writes on them go on working, and that every refusal names its fix.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/cluster.hpp"

namespace postbus {
namespace {

using testing_support::database;
using testing_support::session;

TEST(watch, takes_tables_whose_writes_go_on_working) {
  const database db;
  db.psql(R"(
    create role watch_writer login password 'x';
    create table keyed(id int primary key, v text);
    create table full_row(v text); alter table full_row replica identity full;
    create table by_index(a int not null, v text); create unique index by_index_a on by_index(a); alter table by_index replica identity using index by_index_a;
    create table parts(id int, day date, v text, primary key (id, day)) partition by range (day);
    create table parts_1 partition of parts for values from ('2026-01-01') to ('2026-02-01');
    create table parts_2 partition of parts for values from ('2026-02-01') to ('2026-03-01') partition by list (id);
    create table parts_2_1 partition of parts_2 for values in (1);
    create table loose_parts(id int, v text) partition by list (id);
    create table loose_1 partition of loose_parts for values in (1); alter table loose_1 replica identity full;
    create table "Odd "" name"("Id" int primary key, v text);
    create table parent(id int primary key, v text); create table heir() inherits (parent);
    grant select, insert, update, delete on all tables in schema public to watch_writer;)");
  session writer{db.url_as("watch_writer", "x")};
  for (const char* table : {"keyed", "full_row", "by_index", "parts", "loose_parts", "\"Odd \"\" name\"", "parent"}) {
    db.psql(fmt::format("select postbus.watch('{}')", table));
    EXPECT_EQ(db.psql(fmt::format("select published, fault is null from postbus.watched where tbl = '{}'::regclass", table)), "t|t")
        << table;
  }
  for (const char* rows :
       {"keyed(id, v) values (1, 'a')", "full_row(v) values ('a')", "by_index(a, v) values (1, 'a')",
        "parts(id, day, v) values (1, '2026-01-05', 'a'), (1, '2026-02-05', 'a')", "loose_parts(id, v) values (1, 'a')",
        "\"Odd \"\" name\"(\"Id\", v) values (1, 'a')", "parent(id, v) values (1, 'a')", "heir(id, v) values (2, 'a')"}) {
    const std::string text{rows};
    const auto table = text.substr(0, text.find('('));
    EXPECT_EQ(writer.refused("insert into " + text).message, "") << table;
    EXPECT_EQ(writer.refused(fmt::format("update {} set v = 'b'", table)).message, "") << table;
    EXPECT_EQ(writer.refused(fmt::format("delete from {}", table)).message, "") << table;
  }
  EXPECT_EQ(db.psql("select count(*) from pg_publication_tables where pubname = 'postbus' and schemaname <> 'postbus'"),
            "7");  // the heir is a table of its own
  db.psql("drop owned by watch_writer; drop role watch_writer");
}

TEST(watch, refuses_what_it_must_and_names_the_fix) {
  const database db;
  db.psql(R"(
    create table no_key(v text);
    create table nothing(id int primary key); alter table nothing replica identity nothing;
    create table lost_index(a int not null); create unique index lost_index_a on lost_index(a); alter table lost_index replica identity using index lost_index_a; drop index lost_index_a;
    create table late_key(id int primary key deferrable);
    create unlogged table unlogged(id int primary key);
    create view a_view as select 1 as id; create materialized view a_matview as select 1 as id; create sequence a_sequence;
    create table guarded(id int primary key); alter table guarded enable row level security;
    create table bad_leaf(id int, v text) partition by list (id); create table bad_leaf_1 partition of bad_leaf for values in (1);
    create table unlogged_leaf(id int primary key) partition by list (id); create unlogged table unlogged_leaf_1 partition of unlogged_leaf for values in (1);
    create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere; create foreign table far(id int) server nowhere;
    create table far_leaf(id int) partition by list (id); create foreign table far_leaf_1 partition of far_leaf for values in (1) server nowhere;
    create table ok(id int primary key, v text, twice int generated always as (id * 2) stored);)");
  session one{db.url()};
  one.psql("create temporary table passing(id int primary key)");
  const struct {
    const char *call, *state, *message, *hint;
  } cases[] = {
      {"'no_key'", "PB010", "it has no primary key",
       "alter table public.no_key add primary key (…), or where no column can be one: alter table public.no_key replica identity full"},
      {"'nothing'", "PB010", "replica identity is NOTHING", "alter table public.nothing replica identity default"},
      {"'lost_index'", "PB010", "the index of its replica identity is gone", "replica identity full"},
      {"'late_key'", "PB010", "its primary key is deferrable", "replica identity full"},
      {"'unlogged'", "PB010", "is unlogged", "alter table public.unlogged set logged"},
      {"'passing'", "PB010", "is temporary", "watch a permanent table"},
      {"'a_view'", "PB010", "is a view", "watch the tables it is made of"},
      {"'a_matview'", "PB010", "is a materialized view", "watch the tables"},
      {"'a_sequence'", "PB010", "is a sequence", "watch the tables"},
      {"'far'", "PB010", "is a foreign table", "watch the tables"},
      {"'pg_class'", "PB010", "is a system table", "a table of your own"},
      {"'postbus.meta'", "PB010", "stands in the schema postbus", "in another schema"},
      {"'guarded'", "PB010", "row-level security", "select postbus.watch('public.guarded', rls => 'ignore')"},
      {"'bad_leaf'", "PB010", "partition public.bad_leaf_1 would fail", "alter table public.bad_leaf_1 add primary key"},
      {"'unlogged_leaf'", "PB010", "partition public.unlogged_leaf_1 is unlogged", "alter table public.unlogged_leaf_1 set logged"},
      {"'far_leaf'", "PB010", "partition public.far_leaf_1 is a foreign table", "detach it"},
      {"'ok', columns => '{id, wrong}'", "PB010", "has no column wrong", "its columns: id, v"},
      {"'ok', columns => '{id, null}'", "PB010", "has no column null", "its columns: id, v"},
      {"'ok', columns => '{xmin}'", "PB010", "has no column xmin", "its columns: id, v"},
      {"'ok', columns => '{twice}'", "PB010", "twice is generated", "leave it out"},
      {"'ok', columns => '{}'", "22023", "list of columns is empty", "leave it out"},
      {"'ok', notify => ''", "PB001", "1 to 255 bytes", "1 to 63 bytes"},
      {"'ok', notify => repeat('x', 64)", "PB001", "more than 63 bytes", "1 to 63 bytes"},
      {"'ok', notify => 'table:x'", "PB001", "Postbus's own", "1 to 63 bytes"},
      {"'ok', rls => 'maybe'", "22023", "'refuse' or 'ignore'", ""},
      {"null", "22023", "no table", "postbus.watch("},
  };
  for (const auto& c : cases) {
    const auto wrong = one.refused(fmt::format("select postbus.watch({})", c.call));
    EXPECT_EQ(wrong.state, c.state) << c.call << ": " << wrong.message;
    EXPECT_NE(wrong.message.find(c.message), std::string::npos) << c.call << ": " << wrong.message;
    EXPECT_NE(wrong.hint.find(c.hint), std::string::npos) << c.call << ": " << wrong.hint;
  }
  EXPECT_EQ(db.psql("select count(*) from postbus.watched"), "0");
  EXPECT_EQ(db.psql("select count(*) from pg_publication_tables where pubname = 'postbus' and schemaname <> 'postbus'"), "0");
  // The printed fixes are the fixes.
  for (const char* fixed : {"alter table public.nothing replica identity default; select postbus.watch('nothing')",
                            "alter table public.unlogged set logged; select postbus.watch('unlogged')",
                            "alter table public.no_key replica identity full; select postbus.watch('no_key')",
                            "select postbus.watch('public.guarded', rls => 'ignore')"})
    EXPECT_EQ(db.refused(fixed).message, "") << fixed;
}

TEST(watch, again_replaces_the_options_and_unwatch_ends_it) {
  const database db;
  db.psql("create table t(id int primary key, v text)");
  db.psql("select postbus.watch('t', columns => '{id}', notify => 'events')");
  EXPECT_EQ(db.psql("select tbl, schema_name, table_name, columns, notify, rls, published from postbus.watched"),
            "t|public|t|{id}|events|refuse|t");
  db.psql("select postbus.watch('t')");
  EXPECT_EQ(db.psql("select columns is null, notify is null from postbus.watched"), "t|t");
  EXPECT_EQ(db.psql("select count(*) from pg_publication_tables where pubname = 'postbus' and schemaname <> 'postbus'"), "1");
  EXPECT_EQ(db.psql("select coalesce(to_jsonb(p) ->> 'attnames', '[\"id\", \"v\"]') from pg_publication_tables p where pubname = 'postbus' "
                    "and schemaname <> 'postbus'"),
            R"(["id", "v"])");  // columns are the gateway's business
  db.psql("select postbus.unwatch('t')");
  EXPECT_EQ(db.psql("select count(*) from postbus.watched_tables"), "0");
  EXPECT_EQ(db.psql("select count(*) from pg_publication_tables where pubname = 'postbus' and schemaname <> 'postbus'"), "0");
  EXPECT_EQ(db.refused("select postbus.unwatch('t')").state, "PB013");
}

TEST(watch, is_undone_by_rollback_and_announced_in_the_stream) {
  const database db;
  db.psql("create table t(id int primary key)");
  db.psql("select from pg_create_logical_replication_slot('watch_slot', 'test_decoding')");
  db.psql("begin; select postbus.watch('t'); rollback");
  EXPECT_EQ(db.psql("select count(*) from postbus.watched"), "0");
  db.psql("select postbus.watch('t')");
  const auto said = db.psql("select data from pg_logical_slot_get_changes('watch_slot', null, null) where data like 'message:%'");
  EXPECT_NE(said.find("prefix: postbus:watched,"), std::string::npos) << said;
  db.psql("select pg_drop_replication_slot('watch_slot')");
}

TEST(watch, is_for_the_tables_owner) {
  const database db;
  db.psql(R"(
    create role watch_admin login password 'x' in role postbus_admin;
    create role watch_owner login password 'x' in role postbus_admin;
    create table t(id int primary key); alter table t owner to watch_owner;)");
  const auto wrong = db.refused("select postbus.watch('t')", db.url_as("watch_admin", "x"));
  EXPECT_EQ(wrong.state, "PB010");
  EXPECT_NE(wrong.hint.find("watch_owner"), std::string::npos) << wrong.hint;
  EXPECT_EQ(db.refused("select postbus.watch('t')", db.url_as("watch_owner", "x")).message, "");
  EXPECT_EQ(db.psql("select watched_by from postbus.watched"), "watch_owner");
  EXPECT_EQ(db.refused("select postbus.unwatch('t')", db.url_as("watch_admin", "x")).state, "PB010");
  // A superuser who stepped down to another role is that role.
  EXPECT_EQ(db.refused("set role watch_admin; select postbus.unwatch('t')").state, "PB010");
  db.psql("drop owned by watch_admin, watch_owner; drop role watch_admin, watch_owner");
}

TEST(watch, of_a_partition_and_its_root_excludes_each_other) {
  const database db;
  db.psql("create table root(id int primary key) partition by list (id); create table leaf partition of root for values in (1)");
  db.psql("select postbus.watch('leaf')");
  EXPECT_NE(db.refused("select postbus.watch('root')").message.find("partition that is watched by itself"), std::string::npos);
  db.psql("select postbus.unwatch('leaf'); select postbus.watch('root')");
  EXPECT_NE(db.refused("select postbus.watch('leaf')").message.find("is a partition of"), std::string::npos);
}

TEST(watch, tells_in_the_view_when_a_table_no_longer_fits) {
  const database db;
  db.psql("create table t(id int primary key, v int); select postbus.watch('t'); alter table t drop constraint t_pkey");
  EXPECT_EQ(db.psql("select fault from postbus.watched"), "UPDATE and DELETE on public.t would fail: it has no primary key");
  db.psql("create table gone(id int primary key); select postbus.watch('gone'); drop table gone");
  EXPECT_EQ(db.psql("select tbl from postbus.watched"), "t");
}

TEST(watch, repairs_a_publication_that_was_dropped_or_altered) {
  const database db;
  db.psql("create table t(id int primary key); select postbus.watch('t')");
  db.psql("drop publication postbus");
  EXPECT_EQ(db.psql("select published from postbus.watched"), "f");
  db.psql("create table u(id int primary key)");
  EXPECT_EQ(db.refused("select postbus.watch('u')").hint, "select postbus.repair_publication()");
  db.psql("select postbus.repair_publication()");
  EXPECT_EQ(db.psql("select published from postbus.watched"), "t");
  db.psql("alter publication postbus set (publish = 'insert', publish_via_partition_root = false); alter publication postbus drop table t");
  db.psql("select postbus.repair_publication()");
  EXPECT_EQ(db.psql("select pubdelete, pubviaroot from pg_publication where pubname = 'postbus'"), "t|t");
  EXPECT_EQ(db.psql("select published from postbus.watched"), "t");
  EXPECT_EQ(
      db.psql("select count(*) from pg_publication_tables where pubname = 'postbus' and schemaname = 'postbus' and tablename = 'messages'"),
      "1");
}

TEST(watch, is_refused_where_messages_travel_by_notify) {
  const database db;
  db.psql("create table t(id int primary key); select postbus.use_transport('notify')");
  const auto wrong = db.refused("select postbus.watch('t')");
  EXPECT_EQ(wrong.state, "PB011");
  EXPECT_NE(wrong.hint.find("replication"), std::string::npos);
}

}  // namespace
}  // namespace postbus
