// From a row's change to its feed: what the JSON holds under every replica identity, for every type, through DDL.
#include "feeds/table_feeds.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

#include <set>
#include <thread>

#include "change_rig.hpp"

namespace postbus::feeds {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::change_rig;
using testing_support::database;
using testing_support::session;

/** The payload without its xid, which no test can know. */
std::string without_xid(const std::string& payload) {
  const auto at = payload.rfind(",\"xid\":");
  return payload.substr(0, at) + '}';
}
std::vector<std::string> all_without_xid(std::vector<std::string> payloads) {
  for (auto& p : payloads) p = without_xid(p);
  return payloads;
}
/** The text of "data" in an insert's payload. */
std::string data_of(const std::string& payload) {
  const auto from = payload.find("\"data\":") + 7;
  return payload.substr(from, payload.rfind(",\"xid\":") - from);
}

TEST(feeds, carry_insert_update_delete_and_truncate) {
  database db;
  db.psql("create table orders(id serial primary key, email text, total bigint); select postbus.watch('orders')");
  change_rig rig{db};
  rig.start();
  db.psql("insert into orders(email, total) values ('a@b.c', 5)");
  db.psql("update orders set total = 6");
  db.psql("update orders set id = 7");
  db.psql("delete from orders");
  db.psql("truncate orders");
  const auto got = rig.payloads("table:public.orders", 5);
  EXPECT_THAT(
      all_without_xid(got),
      ElementsAre(R"({"schema":"public","table":"orders","action":"INSERT","data":{"id":1,"email":"a@b.c","total":5}})",
                  R"({"schema":"public","table":"orders","action":"UPDATE","data":{"id":1,"email":"a@b.c","total":6}})",
                  R"({"schema":"public","table":"orders","action":"UPDATE","data":{"id":7,"email":"a@b.c","total":6},"old":{"id":1}})",
                  R"({"schema":"public","table":"orders","action":"DELETE","data":{"id":7}})",
                  R"({"schema":"public","table":"orders","action":"TRUNCATE","data":null})"));
  const auto events = rig.events("table:public.orders");
  EXPECT_EQ(events[0]->kind, bus::kind::insert);
  EXPECT_EQ(events[1]->kind, bus::kind::update);
  EXPECT_EQ(events[3]->kind, bus::kind::delete_);
  EXPECT_EQ(events[4]->kind, bus::kind::truncate);
  const auto xid = boost::json::parse(got[0]).as_object().at("xid").to_number<std::uint64_t>();
  EXPECT_GT(xid, 700u);
}

TEST(feeds, show_old_rows_under_full_identity_and_keys_under_an_index) {
  database db;
  db.psql(
      "create table f(id int primary key, st text, n int); alter table f replica identity full; select postbus.watch('f');"
      "create table i(id int primary key, st text not null, n int); create unique index i_key on i(id, st);"
      "alter table i replica identity using index i_key; select postbus.watch('i')");
  change_rig rig{db};
  rig.start();
  for (const auto* t : {"f", "i"})
    db.psql(fmt::format("insert into {0} values (1, 'new', 1); update {0} set n = 2; update {0} set st = 'done'; delete from {0}", t));
  const auto f = all_without_xid(rig.payloads("table:public.f", 4));
  EXPECT_EQ(f[1], R"({"schema":"public","table":"f","action":"UPDATE","data":{"id":1,"st":"new","n":2},"old":{"id":1,"st":"new","n":1}})");
  EXPECT_EQ(f[3], R"({"schema":"public","table":"f","action":"DELETE","data":{"id":1,"st":"done","n":2}})");
  const auto i = all_without_xid(rig.payloads("table:public.i", 4));
  EXPECT_EQ(i[1], R"({"schema":"public","table":"i","action":"UPDATE","data":{"id":1,"st":"new","n":2}})");
  EXPECT_EQ(i[2], R"({"schema":"public","table":"i","action":"UPDATE","data":{"id":1,"st":"done","n":2},"old":{"id":1,"st":"new"}})");
  EXPECT_EQ(i[3], R"({"schema":"public","table":"i","action":"DELETE","data":{"id":1,"st":"done"}})");
}

TEST(feeds, mark_unchanged_columns_and_fill_them_where_the_old_row_is_known) {
  database db;
  db.psql(
      "create table t(id int primary key, big text, n int); alter table t alter big set storage external; select postbus.watch('t');"
      "create table f(id int primary key, big text, n int); alter table f alter big set storage external;"
      "alter table f replica identity full; select postbus.watch('f')");
  change_rig rig{db};
  rig.start();
  for (const auto* t : {"t", "f"}) db.psql(fmt::format("insert into {0} values (1, repeat('x', 10000), 1); update {0} set n = 2", t));
  const auto t = all_without_xid(rig.payloads("table:public.t", 2));
  EXPECT_EQ(t[1], R"({"schema":"public","table":"t","action":"UPDATE","data":{"id":1,"n":2},"unchanged":["big"]})");
  const auto f = rig.payloads("table:public.f", 2);
  const auto parsed = boost::json::parse(f[1]).as_object();
  EXPECT_FALSE(parsed.contains("unchanged"));
  EXPECT_EQ(parsed.at("data").at("big").as_string().size(), 10'000u);
}

TEST(feeds, write_values_as_row_to_json_does) {
  database db;
  db.psql(
      "create type mood as enum ('sad', 'so \"so\"'); create domain positive as numeric check (value > 0); create domain doc as jsonb;"
      "create domain moods as mood[]; create type inner_part as (x int, note text, tags text[]);"
      "create type part as (a inner_part, b inner_part[], m mood, d doc, t timestamptz); create domain a_part as inner_part");
  db.psql(R"(create table every(id int primary key,
    b bool, i2 smallint, i8 bigint, n numeric, n2 numeric, f4 real, f8 double precision, f8b float8, f8c float8, f8d float8, m money, o oid, x xid8, r regclass,
    t text, v varchar(20), c char(5), c1 "char", nm name, by bytea, d date, d2 date, d3 date, ti time, tz timetz,
    ts timestamp, ts2 timestamp, ts3 timestamp, tstz timestamptz, tstz2 timestamptz, tstz3 timestamptz, iv interval, j json, jb jsonb, jp jsonpath, u uuid, ip inet, cd cidr, mac macaddr,
    bits bit(5), vb varbit, pt point, bx box, bxs box[], pl polygon, ci circle, ir int4range, mr int4multirange, tsr tstzrange, tv tsvector, tq tsquery, xm xml, lsn pg_lsn,
    e mood, ea mood[], p positive, dj doc, dm moods, ia int[], ia2 int[], ia3 int[], ta text[], ba bool[], tsa timestamptz[], ja jsonb[], na numeric[], iv2 int2vector, ov oidvector,
    co part, coa inner_part[], cod a_part, pa positive[], nul text, "odd ""name" int, "ümläut" text, dr daterange[]))");
  db.psql("select postbus.watch('every')");
  change_rig rig{db};
  rig.start();
  // `every` is filled from random choices among awkward values, printed when they differ.
  const auto insert = [&](int id) {
    session writer{db.url()};
    writer.psql("set timezone = 'UTC'");
    writer.psql(fmt::format(R"sql(insert into every select {},
      random() < 0.5, -32768, 9223372036854775807, (array['1.50','NaN','-Infinity','0.000000000000000000001'])[1+random()*3]::numeric, repeat('9',300)::numeric, 1e-20, 'NaN', '-Infinity', 1e300, 0.1+0.2, 12.34, 4294967295, '12345678901', 'pg_class',
      E'quote " back \\ slash / tab \t nl \n bell \x07 é 🙂', 'v', 'c', 'x', 'n', '\x00ff22', '2026-11-22', 'infinity', '0044-03-15 BC', '12:34:56.789', '12:34:56+05:30',
      '2026-11-22 01:02:03.004', '-infinity', '0044-03-15 01:02:03 BC', '2026-11-22 01:02:03+05:45', 'infinity', '0044-03-15 01:02:03 BC', '1 year 2 mons -3 days 04:05:06.7', E'{{"a" :  [1, 2.50],\n "b":"x"}}', '{{"a":  [1, 2.50, "\u00e4"]}}', '$.a', gen_random_uuid(), '10.0.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03',
      B'10101', B'1', '(1,2.5)', '((1,2),(3,4))', '{{(1,2),(3,4);(5,6),(7,8)}}', '((0,0),(1,1))', '<(1,2),3>', '[1,5)', '{{[1,3),[5,8)}}', '["2026-01-01 00:00:00+00",)', 'a fat cat', 'fat & cat', '<a b="c">d</a>', '16/B374D848',
      'so "so"', '{{sad,"so \"so\"",NULL}}', 1.5, '[1,{{"x":null}}]', '{{sad}}', '{{}}', '{{1,NULL,3}}', '[0:1][2:3]={{{{1,2}},{{3,4}}}}', E'{{"a b",c,NULL,"NULL","","q\\"uote","back\\\\slash","{{brace}}","com,ma"}}', '{{t,f,NULL}}', '{{"2026-11-22 01:02:03+00",NULL}}', '{{"{{\"k\": \"v\"}}",NULL,"[1, 2]","\"s\""}}', '{{1.10,NaN}}', '1 2 3', '1 2',
      row(row(1, 'say "hi", (you) \ there', array['x y', null, 'q"'])::inner_part, array[row(2, null, null)::inner_part, null], 'so "so"', '{{"z": [1]}}', '2026-11-22 01:02:03.5+00')::part,
      array[row(1, '', '{{}}')::inner_part, row(null, null, null)::inner_part], row(5, 'five', null)::inner_part, '{{1,2.5}}', null, 42, 'ß', '{{"[2026-01-01,2026-02-01)"}}')sql",
                            id));
  };
  for (int id = 1; id <= 8; ++id) insert(id);
  const auto got = rig.payloads("table:public.every", 8);
  session reader{db.url()};
  reader.psql("set timezone = 'UTC'");
  for (int id = 1; id <= 8; ++id) {
    const auto wanted = reader.psql(fmt::format("select row_to_json(whole)::text from every whole where id = {}", id));
    EXPECT_EQ(data_of(got[static_cast<std::size_t>(id - 1)]), wanted);
  }
}

TEST(feeds, built_in_arrays_are_those_of_the_catalog) {
  database db;
  const type_table types;
  session s{db.url()};
  int known = 0;
  for (int type = 1; type < 6000; ++type) {
    const auto* const array = types.find(static_cast<oid>(type));
    if (!array || array->form != shape::array) continue;
    ++known;
    EXPECT_EQ(s.psql(fmt::format(
                  "select e.oid::text || e.typdelim::text from pg_type a join pg_type e on e.typarray = a.oid where a.oid = {}", type)),
              std::to_string(array->element) + array->delimiter)
        << type;
  }
  EXPECT_GT(known, 50);
}

TEST(feeds, follow_a_composite_type_that_is_altered) {
  database db;
  db.psql(
      "create type inner_part as (x int); create type part as (a int, i inner_part); create domain a_part as part;"
      "create table c(id int primary key, p part, l part[], d a_part); alter table c replica identity full; select postbus.watch('c')");
  change_rig rig{db};
  rig.start();
  std::size_t seen = 0;
  // What the stream brought since the last call is what the database itself says of the row.
  const auto expect_as_written = [&](std::string_view sql, std::string_view row) {
    db.psql(sql);
    const auto got = rig.payloads("table:public.c", ++seen);
    EXPECT_THAT(got[seen - 1], HasSubstr(fmt::format("\"data\":{}", row))) << sql;
  };
  expect_as_written("insert into c values (1, row(1, row(2)), array[row(3, row(4))::part], row(5, row(6)))",
                    R"({"id":1,"p":{"a":1,"i":{"x":2}},"l":[{"a":3,"i":{"x":4}}],"d":{"a":5,"i":{"x":6}}})");
  expect_as_written("alter type part add attribute t text; insert into c values (2, row(1, row(2), 'three'))",
                    R"({"id":2,"p":{"a":1,"i":{"x":2},"t":"three"},"l":null,"d":null})");
  expect_as_written(
      "begin; alter type inner_part add attribute y bool; insert into c values (3, null, array[row(1, row(2, true), '')::part]); commit",
      R"({"id":3,"p":null,"l":[{"a":1,"i":{"x":2,"y":true},"t":""}],"d":null})");
  expect_as_written("alter type part drop attribute t; update c set p = row(7, null) where id = 3",
                    R"({"id":3,"p":{"a":7,"i":null},"l":[{"a":1,"i":{"x":2,"y":true}}],"d":null})");
  EXPECT_EQ(rig.reader->status().reconnects, 0u);
  // A new name changes no value: it is known when the stream tells the table once more.
  expect_as_written(
      "alter type inner_part rename attribute y to yes; alter table c add more int; update c set p = row(8, row(9, false)) where id = 3",
      R"({"id":3,"p":{"a":8,"i":{"x":9,"yes":false}},"l":[{"a":1,"i":{"x":2,"yes":true}}],"d":null,"more":null})");
  rig.payloads("table:public.c", ++seen);  // the columns
  expect_as_written("alter type inner_part rename attribute yes to y; analyze c; delete from c where id = 3",
                    R"({"id":3,"p":{"a":8,"i":{"x":9,"y":false}},"l":[{"a":1,"i":{"x":2,"y":true}}],"d":null,"more":null})");
  db.psql("alter type inner_part rename attribute x to z");
  db.psql("select pg_terminate_backend(pid) from pg_stat_replication");
  rig.wait([&] { return rig.reader->status().reconnects == 1 && rig.reader->status().ready(); });
  db.psql("delete from c where id = 2");
  rig.wait([&] {
    return rig.events("table:public.c").back()->payload.contains(R"("id":2)") &&
           rig.events("table:public.c").back()->kind == bus::kind::delete_;
  });
  EXPECT_EQ(data_of(std::string{rig.events("table:public.c").back()->payload}),
            R"({"id":2,"p":{"a":1,"i":{"z":2,"y":null}},"l":null,"d":null,"more":null})");
}

TEST(feeds, take_values_as_they_come_that_fit_no_type_of_now) {
  database db;
  db.psql("create type part as (a int, b text); create table c(id int primary key, p part); select postbus.watch('c')");
  bus::position before;
  {
    change_rig rig{db, testing_support::permanent};
    rig.start();
    rig.catch_up(db);
    before = rig.hub.head();
  }
  db.psql("insert into c select n, row(n, 'old')::part from generate_series(1, 1000) n");
  db.psql("alter type part add attribute c int");
  db.psql("insert into c values (2000, row(1, 'b', 2))");
  change_rig rig{db, testing_support::permanent};
  rig.start();
  std::vector<std::string> got;
  rig.wait([&] {
    got.clear();
    for (const auto& e : rig.hub.history("table:public.c", before).events) got.emplace_back(e->payload);
    return got.size() >= 1001;
  });
  EXPECT_EQ(data_of(got.front()), R"x({"id":1,"p":"(1,old)"})x") << "under which names, nobody knows any more";
  EXPECT_EQ(data_of(got[999]), R"x({"id":1000,"p":"(1000,old)"})x");
  EXPECT_EQ(data_of(got.back()), R"({"id":2000,"p":{"a":1,"b":"b","c":2}})");
}

TEST(feeds, hide_columns_that_watch_was_not_given) {
  database db;
  db.psql(
      "create table p(id int primary key, name text, secret text); alter table p replica identity full; select postbus.watch('p', columns "
      "=> '{id,name}')");
  change_rig rig{db};
  rig.start();
  db.psql("insert into p values (1, 'n', 'hush'); update p set secret = 'hush hush'; delete from p");
  for (const auto& p : rig.payloads("table:public.p", 3)) {
    EXPECT_THAT(p, HasSubstr("\"id\":1"));
    EXPECT_THAT(p, testing::Not(HasSubstr("hush")));
    EXPECT_THAT(p, testing::Not(HasSubstr("secret")));
  }
}

TEST(feeds, follow_watch_and_unwatch) {
  database db;
  db.psql("create table w(id int primary key, a text, b text)");
  change_rig rig{db};
  rig.start();
  db.psql("insert into w values (1, 'unseen', '')");
  db.psql("select postbus.watch('w', columns => '{id,a}')");
  db.psql("insert into w values (2, 'two', 'hidden')");
  rig.catch_up(db);
  db.psql("select postbus.watch('w')");
  db.psql("insert into w values (3, 'three', 'shown')");
  db.psql("select postbus.unwatch('w')");
  db.psql("insert into w values (4, 'unseen', '')");
  db.psql("begin; select postbus.watch('w'); insert into w values (5, 'five', 'same transaction'); commit");
  rig.catch_up(db);
  const auto got = all_without_xid(rig.payloads("table:public.w", 3));
  EXPECT_THAT(got, ElementsAre(R"({"schema":"public","table":"w","action":"INSERT","data":{"id":2,"a":"two"}})",
                               R"({"schema":"public","table":"w","action":"INSERT","data":{"id":3,"a":"three","b":"shown"}})",
                               R"({"schema":"public","table":"w","action":"INSERT","data":{"id":5,"a":"five","b":"same transaction"}})"));
  EXPECT_EQ(rig.feeds->channel_of("w"), "table:public.w");
  EXPECT_EQ(rig.feeds->channel_of("public.w"), "table:public.w");
  EXPECT_EQ(rig.feeds->channel_of("x"), std::nullopt);
}

TEST(feeds, survive_ddl_partitions_and_wide_rows) {
  database db;
  std::string wide = "create table wide(id int primary key";
  for (int i = 1; i < 1600; ++i) wide += fmt::format(",c{} int", i);
  db.psql(wide + "); select postbus.watch('wide')");
  db.psql(
      "create table parts(id int, at date, primary key (id, at)) partition by range (at);"
      "create table parts_1 partition of parts for values from ('2026-01-01') to ('2026-07-01');"
      "create table parts_2 partition of parts for values from ('2026-07-01') to ('2027-01-01'); select postbus.watch('parts')");
  db.psql("create table ddl(id int primary key, a text); select postbus.watch('ddl')");
  change_rig rig{db};
  rig.start();
  db.psql("insert into wide(id, c1599) values (1, 7)");
  db.psql("insert into parts values (1, '2026-02-01'); update parts set at = '2026-08-01'; truncate parts");
  db.psql("insert into ddl values (1, 'x')");
  db.psql("alter table ddl add b int default 5; alter table ddl rename a to z");
  db.psql("insert into ddl values (2, 'y')");
  db.psql("alter table ddl drop b; alter table ddl alter z type jsonb using to_jsonb(z)");
  db.psql("insert into ddl values (3, '[1]')");
  db.psql("alter table ddl rename to renamed");
  db.psql("insert into renamed values (4, '[2]')");
  const auto w = boost::json::parse(rig.payloads("table:public.wide", 1)[0]).at("data").as_object();
  EXPECT_EQ(w.size(), 1600u);
  EXPECT_EQ(w.at("c1599"), 7);
  EXPECT_TRUE(w.at("c1598").is_null());
  const auto parts = all_without_xid(rig.payloads("table:public.parts", 4));
  EXPECT_THAT(parts, ElementsAre(R"({"schema":"public","table":"parts","action":"INSERT","data":{"id":1,"at":"2026-02-01"}})",
                                 R"({"schema":"public","table":"parts","action":"DELETE","data":{"id":1,"at":"2026-02-01"}})",
                                 R"({"schema":"public","table":"parts","action":"INSERT","data":{"id":1,"at":"2026-08-01"}})",
                                 R"({"schema":"public","table":"parts","action":"TRUNCATE","data":null})"));
  std::vector<std::string> data;
  for (const auto& p : rig.payloads("table:public.ddl", 5)) data.push_back(p.contains("\"columns\"") ? p : data_of(p));
  EXPECT_THAT(
      data,
      ElementsAre(
          R"({"id":1,"a":"x"})", R"({"id":2,"z":"y","b":5})",
          R"({"schema":"public","table":"ddl","columns":[{"name":"id","type":"integer"},{"name":"z","type":"text"},{"name":"b","type":"integer"}]})",
          R"({"id":3,"z":[1]})",
          R"({"schema":"public","table":"ddl","columns":[{"name":"id","type":"integer"},{"name":"z","type":"jsonb"}]})"));
  const auto ddl = rig.events("table:public.ddl");
  EXPECT_EQ(ddl[2]->kind, bus::kind::schema);
  EXPECT_EQ(ddl[2]->at, ddl[1]->at) << "it takes no position of its own";
  EXPECT_EQ(data_of(rig.payloads("table:public.renamed", 1)[0]), R"({"id":4,"z":[2]})");
}

/** What any program does that listens to `events`. Ends some moments after `stop`. */
struct plain_listener {
  plain_listener(boost::asio::io_context& loop, const std::string& url) {
    boost::asio::co_spawn(loop, listen(url, *this), boost::asio::detached);
  }
  static boost::asio::awaitable<void> listen(std::string url, plain_listener& self) {
    auto opened = co_await postgres::connection::open({.conninfo = std::move(url)});
    auto& session = *opened;
    session.on_notification(
        [&self](const postgres::notification& n) { self.heard.push_back(std::string{n.channel} + ' ' + std::string{n.payload}); });
    const auto listened = co_await session.execute("listen events", std::chrono::seconds{5});
    self.listening = listened.has_value();
    while (!self.stop) co_await session.wait_notifications(std::chrono::milliseconds{50});
    self.listening = false;
  }
  std::vector<std::string> heard;
  bool listening{}, stop{};
};

TEST(feeds, are_mirrored_to_a_plain_channel) {
  database db;
  db.psql("create table orders(id int primary key, note text); select postbus.watch('orders', notify => 'events')");
  change_rig rig{db};
  rig.start();
  plain_listener plain{rig.loop, db.url()};
  auto& heard = plain.heard;
  rig.wait([&] { return plain.listening; });
  db.psql(
      "begin; insert into orders values (1, 'one'), (2, 'two'); update orders set note = 'same' where id = 1; update orders set note = "
      "'same' where id = 1; commit");
  db.psql("update orders set note = repeat('x', 8000) where id = 2; delete from orders where id = 1");
  db.psql("begin; insert into orders values (9, 'never'); rollback");
  rig.wait([&] { return heard.size() >= 6; });
  const auto position = bus::to_text(rig.events("table:public.orders")[4]->at);
  EXPECT_THAT(heard,
              ElementsAre(R"(events {"table":"orders","action":"INSERT","data":{"id":1,"note":"one"}})",
                          R"(events {"table":"orders","action":"INSERT","data":{"id":2,"note":"two"}})",
                          R"(events {"table":"orders","action":"UPDATE","data":{"id":1,"note":"same"}})",
                          R"(events {"table":"orders","action":"UPDATE","data":{"id":1,"note":"same"}})",
                          R"(events {"table":"orders","action":"UPDATE","data":{"id":2},"truncated":true,"position":")" + position + "\"}",
                          R"(events {"table":"orders","action":"DELETE","data":{"id":1}})"));
  plain.stop = true;
  rig.wait([&] { return !plain.listening; });
}

TEST(feeds, are_mirrored_by_one_gateway_of_two_which_the_other_replaces) {
  database db;
  db.psql("create table orders(id int primary key); select postbus.watch('orders', notify => 'events')");
  change_rig one{db}, two{db};
  one.start();
  two.start();
  plain_listener plain{one.loop, db.url()};
  one.wait([&] { return plain.listening; });
  const auto both = [&](std::size_t count) {
    one.wait([&] {
      two.loop.restart();
      two.loop.poll();
      return plain.heard.size() >= count;
    });
  };
  db.psql("insert into orders values (1)");
  both(1);
  db.psql("insert into orders values (2)");
  both(2);
  // The other one has found the lock held.
  one.wait([&] {
    two.loop.restart();
    two.loop.poll();
    return db.psql(
               "select count(*) from pg_stat_activity where application_name = 'postbus mirror' and datname = current_database() and query "
               "like '%pg_try_advisory_lock%'") == "1";
  });
  // Whoever mirrors is cut off: it comes back, or the other takes over; no event comes twice.
  db.psql(
      "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objid = 1835627122 and granted "
      "and database = (select oid from pg_database where datname = current_database())");
  int id = 3;
  one.wait([&] {
    two.loop.restart();
    two.loop.poll();
    if (id < 400 && plain.heard.size() < 5) db.psql(fmt::format("insert into orders values ({})", id++));
    return plain.heard.size() >= 5;
  });
  std::set<std::string> distinct{plain.heard.begin(), plain.heard.end()};
  EXPECT_EQ(distinct.size(), plain.heard.size());
  plain.stop = true;
  one.wait([&] { return !plain.listening; });
}

TEST(feeds, are_not_mirrored_again_when_they_are_read_again) {
  database db;
  db.psql("create table orders(id int primary key, note text); select postbus.watch('orders', notify => 'events')");
  boost::asio::io_context loop;
  plain_listener plain{loop, db.url()};
  const auto wait_in = [&](change_rig& rig, const std::function<bool()>& holds) {
    rig.wait([&] {
      loop.restart();
      loop.poll();
      return holds();
    });
  };
  {
    change_rig rig{db, testing_support::permanent};
    rig.start();
    wait_in(rig, [&] { return plain.listening; });
    db.psql("insert into orders values (1)");
    db.psql("insert into orders values (2)");
    wait_in(rig, [&] { return plain.heard.size() >= 2; });
  }
  db.psql("insert into orders values (3)");  // while there is no gateway
  change_rig rig{db, [](changes::reader_options& o) {
                   testing_support::permanent(o);
                   o.decoding_kib = 64;
                   o.limits.publish_bytes = 100'000;
                 }};
  rig.start();
  db.psql("insert into orders values (4)");
  wait_in(rig, [&] { return plain.heard.size() >= 3; });
  ASSERT_EQ(plain.heard.size(), 3u) << "the slot gave 1 to 3 once more";
  EXPECT_NE(plain.heard[2].find(R"("id":4)"), std::string::npos);

  // A large transaction that is broken off within begins again with its first row.
  const auto start = rig.hub.head();
  const auto rows = [&] { return rig.hub.history("table:public.orders", start).events.size(); };
  db.psql("insert into orders select g, repeat('x', 500) from generate_series(5, 4004) g");
  wait_in(rig, [&] { return rows() > 0; });
  ASSERT_LT(rows(), 4000u);
  db.psql("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()");
  wait_in(rig, [&] { return rows() == 4000; });
  db.psql("delete from orders where id = 1");
  wait_in(rig, [&] { return !plain.heard.empty() && plain.heard.back().find("DELETE") != std::string::npos; });
  EXPECT_GE(rig.reader->status().reconnects, 1u);
  EXPECT_EQ(plain.heard.size(), 3u + 4000u + 1u);
  EXPECT_EQ((std::set<std::string>{plain.heard.begin(), plain.heard.end()}).size(), plain.heard.size());
  plain.stop = true;
  wait_in(rig, [&] { return !plain.listening; });
}

TEST(feeds, are_never_shown_under_options_that_cannot_be_seen_yet) {
  testing_support::cluster own;
  database db{own};
  db.psql("create table w(id int primary key, secret text); select postbus.watch('w')");
  change_rig rig{db};
  rig.start();
  // The narrower watch is in the WAL, and its session waits for a standby that is not there.
  const testing_support::absent_standby waited_for{own};
  std::thread narrowing{[url = db.url()] { session{url}.psql("select postbus.watch('w', columns => '{id}')"); }};
  rig.wait([&] { return rig.reader->status().reconnects > 0; });
  waited_for.forget();
  narrowing.join();
  rig.wait([&] { return rig.reader->status().ready(); });
  db.psql("insert into w values (1, 'hush')");
  rig.wait([&] { return rig.hub.history("table:public.w", bus::from_beginning{}).events.size() == 1; });
  EXPECT_EQ(data_of(std::string{rig.hub.history("table:public.w", bus::from_beginning{}).events[0]->payload}), R"({"id":1})");
  rig.stop();
}

TEST(feeds, work_for_a_gateway_that_is_no_superuser) {
  database db;
  db.psql(
      "do $$ begin create role gateway_role login replication password 'secret' in role postbus_admin; exception when duplicate_object "
      "then null; end $$;"
      "create type mood as enum ('fine'); create table orders(id int primary key, m mood); select postbus.watch('orders', notify => "
      "'events')");
  change_rig rig{db, [&](changes::reader_options& o) { o.conninfo = o.conninfo_direct = db.url_as("gateway_role", "secret"); }};
  rig.start();
  db.psql("insert into orders values (1, 'fine'); select postbus.post('a', 'x')");
  EXPECT_EQ(data_of(rig.payloads("table:public.orders", 1)[0]), R"({"id":1,"m":"fine"})");
  EXPECT_EQ(rig.payloads("a", 1)[0], "x");
}

void looks_often(changes::reader_options& o) { o.look_after = 50ms; }

std::vector<std::string> told(const change_rig& rig, std::string_view channel) {
  std::vector<std::string> all;
  for (const auto& e : rig.events(channel)) {
    std::string one{to_text(e->kind)};
    if (e->kind == bus::kind::gap) one += ' ' + std::string{boost::json::parse(e->payload).at("reason").as_string()};
    all.push_back(std::move(one));
  }
  return all;
}

TEST(feeds, tell_of_a_gap_where_somebody_altered_the_publication_and_go_on) {
  for (const char* harm : {"alter publication postbus drop table t", "alter publication postbus set (publish = 'delete')",
                           "alter publication postbus set (publish_via_partition_root = false)"}) {
    database db;
    db.psql("create table t(id int primary key, v int); select postbus.watch('t')");
    change_rig rig{db, looks_often};
    rig.start();
    db.psql("insert into t values (1)");
    rig.payloads("table:public.t", 1);
    db.psql(fmt::format("begin; {}; insert into t values (2); commit", harm));
    rig.wait([&] { return told(rig, "table:public.t").back() == "gap publication"; });
    db.psql("insert into t values (3)");
    rig.wait([&] { return told(rig, "table:public.t").back() == "insert"; });
    const auto events = rig.events("table:public.t");
    const auto gap = boost::json::parse(events[events.size() - 2]->payload).as_object();
    const auto place = [&](const char* name) { return bus::parse_position(gap.at(name).as_string()).value(); };
    EXPECT_LT(place("from"), place("to")) << harm;
    EXPECT_LE(place("to"), events.back()->at) << harm;
    EXPECT_EQ(db.psql("select postbus.feeds_fault() is null"), "t");
  }
}

TEST(feeds, tell_of_a_gap_where_watch_publishes_a_watched_table_again) {
  database db;
  db.psql("create table t(id int primary key); select postbus.watch('t')");
  change_rig rig{db};  // looks too rarely to find it by itself
  rig.start();
  db.psql("select postbus.watch('t')");
  db.psql("insert into t values (1)");
  db.psql("alter publication postbus drop table t; insert into t values (2)");
  db.psql("select postbus.watch('t')");
  db.psql("insert into t values (3)");
  rig.wait([&] { return told(rig, "table:public.t").size() >= 3; });
  EXPECT_THAT(told(rig, "table:public.t"), ElementsAre("insert", "gap publication", "insert"));
}

TEST(feeds, are_mended_when_no_writer_of_unpublished_rows_is_left) {
  database db;
  db.psql("create table t(id int primary key); select postbus.watch('t')");
  change_rig rig{db, looks_often};
  rig.start();
  session writer{db.url()};
  db.psql("alter publication postbus drop table t");
  writer.psql("begin; insert into t values (1)");
  EXPECT_EQ(db.refused("select postbus.watch('t')").state, "PB014");
  rig.wait([&] { return rig.reader->status().feeds_problem.find("transactions that write public.t are running") != std::string::npos; });
  EXPECT_THAT(told(rig, "table:public.t"), ElementsAre("gap publication")) << "told before it is mended, too";
  writer.psql("insert into t values (2); commit");
  rig.wait([&] { return told(rig, "table:public.t").size() == 2; });
  EXPECT_EQ(told(rig, "table:public.t").back(), "gap publication") << "and behind what was not in the stream";
  rig.wait([&] { return rig.reader->status().feeds_problem.empty(); });
}

TEST(feeds, of_a_table_that_was_dropped_end_and_go_on_with_the_one_that_is_made_in_its_place) {
  database db;
  db.psql("create table t(id int primary key, v int); select postbus.watch('t', columns => '{id}', notify => 'events')");
  change_rig rig{db, looks_often};
  rig.start();
  db.psql("insert into t values (1)");
  rig.payloads("table:public.t", 1);
  db.psql("drop table t");
  rig.wait([&] { return !rig.feeds->channel_of("t"); });
  db.psql("create table t(id bigint, other text)");
  rig.wait([&] { return rig.reader->status().feeds_problem.find("no primary key") != std::string::npos; });
  db.psql("insert into t values (2); alter table t add primary key (id)");
  rig.wait([&] { return rig.feeds->channel_of("t").has_value(); });
  db.psql("insert into t values (3)");
  rig.wait([&] { return told(rig, "table:public.t").back() == "schema"; });
  EXPECT_THAT(told(rig, "table:public.t"), ElementsAre("insert", "gap publication", "gap publication", "insert", "schema"));
  EXPECT_THAT(std::string{rig.events("table:public.t")[3]->payload}, HasSubstr(R"("data":{"id":3})")) << "with its options";
  EXPECT_EQ(db.psql("select notify from postbus.watched"), "events");
  // At once, and with the same columns.
  db.psql("drop table t; create table t(id bigint primary key, other text)");
  rig.wait([&] { return told(rig, "table:public.t").size() == 6; });
  db.psql("insert into t values (4)");
  rig.wait([&] { return told(rig, "table:public.t").size() == 8; });
  const auto all = told(rig, "table:public.t");
  EXPECT_THAT(std::vector(all.end() - 3, all.end()), ElementsAre("gap publication", "insert", "schema"));
}

}  // namespace
}  // namespace postbus::feeds
