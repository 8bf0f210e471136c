// Filtered feeds of partitioned tables. Each partition has a replica identity of its own, and what the server calls a row's old
// tuple goes by the root's: where a partition carries less than the root says, it has NULL for what nobody knows.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "postgres/migrations.hpp"
#include "postgres/probe.hpp"
#include "viewing.hpp"

namespace postbus::feeds {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing_support::change_rig;
using testing_support::database;
using testing_support::short_form;
using testing_support::viewing;

/** r by list (reg): r1 is FULL like r itself. */
void make_full(const database& db) {
  db.psql(
      "create table r(id int, reg int, owner text, primary key (id, reg)) partition by list (reg); alter table r replica identity full;"
      "create table r1 partition of r for values in (1); alter table r1 replica identity full; select postbus.watch('r')");
}

std::vector<std::string> feed(change_rig& rig, const database& db) {
  rig.catch_up(db);
  std::vector<std::string> all;
  for (const auto& e : rig.events("table:public.r")) all.push_back(short_form(*e));
  return all;
}

TEST(filters, are_exact_on_a_partitioned_table_whose_partitions_are_full_for_nulls_too) {
  for (const auto* const root : {"full", "default"}) {  // it has no rows
    database db;
    make_full(db);
    db.psql(fmt::format("alter table r replica identity {}", root));
    change_rig rig{db};
    rig.start();
    viewing ann{rig, db}, nobody{rig, db};
    ann.see("r", {.where = "owner = 'ann'"});
    nobody.see("r", {.where = "owner is null"});
    db.psql("truncate r");
    db.psql("insert into r values (1, 1, 'ann'), (2, 1, null)");
    db.psql("update r set owner = null where id = 1; update r set owner = 'ann' where id = 2");
    db.psql("alter table r replica identity full");  // the server tells of that when it next tells of a partition
    db.psql("update r set id = id + 10; delete from r");
    EXPECT_THAT(ann.after(db), ElementsAre("truncate null", R"(insert {"id":1,"reg":1,"owner":"ann"})", R"(leave {"id":1,"reg":1})",
                                           R"(enter {"id":2,"reg":1,"owner":"ann"})",
                                           R"(update {"id":12,"reg":1,"owner":"ann"} old {"id":2,"reg":1,"owner":"ann"})",
                                           R"(delete {"id":12,"reg":1,"owner":"ann"})"));
    EXPECT_THAT(nobody.after(db),
                ElementsAre("truncate null", R"(insert {"id":2,"reg":1,"owner":null})", R"(enter {"id":1,"reg":1,"owner":null})",
                            R"(leave {"id":2,"reg":1})", R"(update {"id":11,"reg":1,"owner":null} old {"id":1,"reg":1,"owner":null})",
                            R"(delete {"id":11,"reg":1,"owner":null})"));
  }
}

TEST(filters, end_at_the_first_row_of_a_partition_that_does_not_tell_and_leak_no_key) {
  for (const auto* const change :
       {"delete from r where id = 7", "update r set id = 8 where id = 7", "update r set owner = 'ann' where id = 7"}) {
    database db;
    make_full(db);
    change_rig rig{db};
    rig.start();
    viewing ann{rig, db}, nobody{rig, db}, not_ann{rig, db}, by_key{rig, db};
    const auto of_ann = ann.see("r", {.where = "owner = 'ann'"});
    nobody.see("r", {.where = "owner is null"});
    not_ann.see("r", {.where = "not (owner is not null and owner = 'bob')"});
    by_key.see("r", {.where = "id < 5"});
    db.psql("insert into r values (1, 1, null)");
    db.psql("create table r2 partition of r for values in (2); insert into r values (7, 2, 'bob')");
    db.psql(change);
    db.psql("delete from r where id = 1");
    EXPECT_THAT(ann.after(db), ElementsAre("ended")) << change;
    EXPECT_EQ(of_ann->why().code, errc::table_changed);
    EXPECT_THAT(nobody.after(db), ElementsAre(R"(insert {"id":1,"reg":1,"owner":null})", "ended")) << change;
    EXPECT_THAT(not_ann.after(db), ElementsAre(R"(insert {"id":1,"reg":1,"owner":null})", "ended")) << change;
    EXPECT_THAT(by_key.after(db), ElementsAre(R"(insert {"id":1,"reg":1,"owner":null})", R"(delete {"id":1,"reg":1})"))
        << "what each partition carries is known, and no more";
    const auto refused = ann.open("r", {.where = "owner = 'ann'"});
    ASSERT_TRUE(refused.has_error()) << "who comes back is told what is to be done";
    EXPECT_EQ(refused.error().code, errc::conflict);
    EXPECT_THAT(refused.error().text, HasSubstr("to make it exact: alter table public.r2 replica identity full;"));
    EXPECT_THAT(refused.error().text, Not(HasSubstr("r1")));
  }
}

TEST(filters, tell_on_demand_what_is_not_sure_of_a_partition_and_what_is) {
  database db;
  make_full(db);
  db.psql("create table r2 partition of r for values in (2)");
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  v.see("r", {.where = "owner = 'ann'", .maybe = true});
  db.psql("insert into r values (1, 1, 'ann'), (2, 2, 'ann'), (3, 2, 'bob')");
  db.psql("update r set id = id + 10; delete from r");
  EXPECT_THAT(v.after(db), ElementsAre(R"(insert {"id":1,"reg":1,"owner":"ann"})", R"(insert {"id":2,"reg":2,"owner":"ann"})",
                                       R"(update {"id":11,"reg":1,"owner":"ann"} old {"id":1,"reg":1,"owner":"ann"})",
                                       R"(enter {"id":12,"reg":2,"owner":"ann"} maybe)", R"(leave {"id":3,"reg":2} maybe)",
                                       R"(delete {"id":11,"reg":1,"owner":"ann"})", R"(delete {"id":12,"reg":2} maybe)",
                                       R"(delete {"id":13,"reg":2} maybe)"));
}

TEST(filters, have_no_false_nulls_in_the_old_rows_of_partitions_with_other_identities) {
  for (const auto* const root : {"full", "default"}) {
    database db;
    db.psql(
        "create table r(id int, reg int, owner text, mail text not null, big text, primary key (id, reg)) partition by list (reg);"
        "create table r1 partition of r for values in (1);"
        "create table r2 partition of r for values in (2); create unique index by_mail on r2(mail); alter table r2 replica identity using "
        "index by_mail;"
        "create table r3 partition of r for values in (3); alter table r3 replica identity full; alter table r alter big set storage "
        "external;"
        "alter table r3 alter big set storage external; select postbus.watch('r')");
    db.psql(fmt::format("alter table r replica identity {}", root));
    change_rig rig{db};
    rig.start();
    db.psql("insert into r values (1, 1, 'a', 'm1', null), (2, 2, 'b', 'm2', null), (3, 3, null, 'm3', repeat('x', 3000))");
    db.psql("update r set id = id + 10, mail = mail || '!'; delete from r");
    const std::string big(3000, 'x');
    auto events = feed(rig, db);
    events.erase(events.begin(), events.begin() + 3);
    EXPECT_THAT(events, ElementsAre(R"(update {"id":11,"reg":1,"owner":"a","mail":"m1!","big":null} old {"id":1,"reg":1})",
                                    R"(update {"id":12,"reg":2,"owner":"b","mail":"m2!","big":null} old {"mail":"m2"})",
                                    R"(update {"id":13,"reg":3,"owner":null,"mail":"m3!","big":")" + big +
                                        R"("} old {"id":3,"reg":3,"mail":"m3","big":")" + big + R"("})",
                                    R"(delete {"id":11,"reg":1})", R"(delete {"mail":"m2!"})",
                                    R"(delete {"id":13,"reg":3,"mail":"m3!","big":")" + big + R"("})"))
        << root;
    viewing v{rig, db};
    const auto refused = v.open("r", {.where = "id = 1 and owner = 'a'"});
    ASSERT_TRUE(refused.has_error()) << "the root's key is not the key of every partition";
    EXPECT_THAT(refused.error().text,
                HasSubstr("alter table public.r1 replica identity full; alter table public.r2 replica identity full;"));
    EXPECT_THAT(v.open("r", {.where = "id = 1"}).error().text, HasSubstr("exact: alter table public.r2 replica identity full;"));
    const auto facts = testing_support::run(postgres::probe(db.url(), db.url(), std::chrono::seconds{10}));
    ASSERT_TRUE(facts);
    std::string fixes;
    for (const auto& f : postgres::examine(*facts, postgres::schema_version()))
      if (f.subject == "filters") fixes += f.what + ": " + f.fix + "\n";
    EXPECT_EQ(fixes,
              "filters on the feed of public.r are exact for no column that all its partitions carry: alter table public.r1 replica "
              "identity full;  -- and "
              "the same for 1 more\n");
  }
}

TEST(filters, notice_the_identity_that_a_partition_is_given_in_the_midst_of_its_rows) {
  database db;
  make_full(db);
  change_rig rig{db};
  rig.start();
  viewing v{rig, db};
  v.see("r", {.where = "owner is null"});
  db.psql("insert into r values (1, 1, null), (2, 1, 'bob')");
  db.psql("begin; alter table r1 replica identity default; delete from r where id = 2; commit");
  EXPECT_THAT(v.after(db), ElementsAre(R"(insert {"id":1,"reg":1,"owner":null})", "ended"));
  EXPECT_THAT(v.open("r", {.where = "owner is null"}).error().text, HasSubstr("alter table public.r1 replica identity full"));
  db.psql("alter table r1 replica identity full");
  viewing again{rig, db};
  again.see("r", {.where = "owner is null"});
  db.psql("update r set id = 3; delete from r");
  EXPECT_THAT(again.after(db), ElementsAre(R"(update {"id":3,"reg":1,"owner":null} old {"id":1,"reg":1,"owner":null})",
                                           R"(delete {"id":3,"reg":1,"owner":null})"));
  EXPECT_THAT(
      feed(rig, db),
      ElementsAre(R"(insert {"id":1,"reg":1,"owner":null})", R"(insert {"id":2,"reg":1,"owner":"bob"})", R"(delete {"id":2,"reg":1})",
                  R"(update {"id":3,"reg":1,"owner":null} old {"id":1,"reg":1,"owner":null})", R"(delete {"id":3,"reg":1,"owner":null})"));
}

TEST(filters, take_no_older_row_for_what_its_partition_carries_by_now) {
  database db;
  make_full(db);
  change_rig rig{db, [](changes::reader_options& o) { o.limits.publish_bytes = 1; }};  // what comes is judged one by one
  rig.start();
  viewing ann{rig, db};
  ann.see("r", {.where = "owner = 'ann'"});
  db.psql("create table r2 partition of r for values in (2); insert into r values (7, 2, null), (8, 2, 'bob')");
  db.psql("delete from r where id = 7");  // the view ends here, and the catalog is read
  db.psql("insert into r values (1, 1, null)");
  db.psql("delete from r where id = 8");
  db.psql("alter table r2 replica identity full");  // before any of it has been read
  EXPECT_THAT(feed(rig, db),
              ElementsAre(R"(insert {"id":7,"reg":2,"owner":null})", R"(insert {"id":8,"reg":2,"owner":"bob"})",
                          R"(delete {"id":7,"reg":2})", R"(insert {"id":1,"reg":1,"owner":null})", R"(delete {"id":8,"reg":2})"));
  EXPECT_THAT(ann.after(db), ElementsAre("ended"));
}

TEST(filters, remember_what_a_partition_carries_when_the_root_is_told_anew) {
  database db;
  make_full(db);
  db.psql("create table r2 partition of r for values in (2)");
  change_rig rig{db};
  rig.start();
  db.psql("insert into r values (1, 1, null), (8, 2, 'bob')");
  db.psql("alter table r replica identity default; alter table r1 alter owner set statistics 50");  // told with the next row of r1
  db.psql("insert into r values (2, 1, null)");
  db.psql("delete from r where id = 8");
  EXPECT_EQ(feed(rig, db).back(), R"(delete {"id":8,"reg":2})");
}

TEST(filters, go_on_when_the_partition_that_did_not_tell_is_mended_or_gone_and_never_written_again) {
  for (const auto* const mend : {"alter table r2 replica identity full", "alter table r detach partition r2", "drop table r2"}) {
    database db;
    make_full(db);
    db.psql("create table r2 partition of r for values in (2)");
    change_rig rig{db};
    rig.start();
    db.psql("insert into r values (7, 2, null)");
    rig.catch_up(db);
    db.psql(mend);
    bool exact = false;
    for (int attempt = 0; attempt < 5 && !exact; ++attempt) {  // the first one makes the gateway look into the catalog
      viewing v{rig, db};
      v.see("r", {.where = "owner is null"});
      db.psql("insert into r values (1, 1, null)");
      v.after(db);
      db.psql("delete from r where id = 1");
      const auto& got = v.after(db);
      ASSERT_THAT(got, testing::SizeIs(2)) << mend;
      EXPECT_EQ(got[0], R"(insert {"id":1,"reg":1,"owner":null})");
      exact = got[1] == R"(delete {"id":1,"reg":1,"owner":null})";
      EXPECT_TRUE(exact || got[1] == "ended") << got[1];
    }
    EXPECT_TRUE(exact) << mend;
  }
}

}  // namespace
}  // namespace postbus::feeds
