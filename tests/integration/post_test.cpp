// postbus.post: what reaches the WAL (seen through a slot of test_decoding), what is refused and how, who may do it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "postgres/migrations.hpp"
#include "support/cluster.hpp"

namespace postbus {
namespace {

using testing_support::database;
using testing_support::refusal;
using testing_support::session;

/** A slot that remembers every logical message of a database from its making on. */
class message_slot {
public:
  explicit message_slot(const database& db) : db_{db}, name_{"s_" + db.name()} {
    db_.psql(fmt::format("select from pg_create_logical_replication_slot('{}', 'test_decoding')", name_));
  }
  ~message_slot() { db_.psql(fmt::format("select pg_drop_replication_slot('{}')", name_)); }
  /** "prefix=content", one a line, and takes them out. */
  std::string take() const {
    return db_.psql(
        fmt::format("select regexp_replace(data, '^message: transactional: 1 prefix: (.*), sz: \\d+ content:(.*)$', '\\1=\\2') "
                    "from pg_logical_slot_get_changes('{}', null, null) where data like 'message:%'",
                    name_));
  }

private:
  const database& db_;
  std::string name_;
};

TEST(post, goes_out_at_commit_in_order_and_not_on_rollback) {
  const database db;
  const message_slot slot{db};
  db.psql("begin; select postbus.post('a', 'gone'); rollback");
  db.psql(
      "begin; select postbus.post('a', 'one'); savepoint s; select postbus.post('a', 'gone'); rollback to s; select postbus.post('a', "
      "'two'); commit");
  db.psql("select postbus.post('b', '{\"x\": 1}'::jsonb)");
  EXPECT_EQ(slot.take(), "postbus:t:a=one\npostbus:t:a=two\npostbus:j:b={\"x\": 1}");
}

TEST(post, delivers_equal_payloads_as_often_as_they_were_posted) {
  const database db;
  const message_slot slot{db};
  db.psql("select postbus.post('a', 'same') from generate_series(1, 3)");
  EXPECT_EQ(slot.take(), "postbus:t:a=same\npostbus:t:a=same\npostbus:t:a=same");
}

TEST(post, takes_every_channel_name_it_should) {
  const database db;
  const message_slot slot{db};
  for (const char* name : {"'a'", "repeat('x', 63)", "repeat('x', 64)", "repeat('x', 255)", "'with \"quotes\" and ''these'''",
                           "U&'\\+01F600'", "'Ünïcode'", "'tables:x'", "'%'", "'a\\b'"}) {
    EXPECT_EQ(db.refused(fmt::format("select postbus.post({}, '')", name)).message, "") << name;
    EXPECT_EQ(slot.take(), db.psql(fmt::format("select 'postbus:t:' || {} || '='", name)));
  }
}

TEST(post, refuses_every_channel_name_it_should) {
  const database db;
  const message_slot slot{db};
  for (const char* name : {"''", "null", "repeat('x', 256)", "repeat('x', 10000)", "repeat('ü', 128)", "E'a\\nb'", "E'\\x01'", "E'\\x7f'",
                           "U&'a\\0085'", "'table:public.t'", "'task:1'", "'cache:c'", "'postbus:t:x'"}) {
    const auto wrong = db.refused(fmt::format("select postbus.post({}, 'x')", name));
    EXPECT_EQ(wrong.state, "PB001") << name << wrong.message;
    EXPECT_NE(wrong.hint, "");
  }
  EXPECT_EQ(slot.take(), "");
}

TEST(post, limits_payloads_by_bytes) {
  const database db;
  EXPECT_EQ(db.refused("select postbus.post('a', null::text)").state, "PB003");
  EXPECT_EQ(db.refused("select postbus.post('a', null::jsonb)").state, "PB003");
  EXPECT_EQ(db.refused("select postbus.post('a', repeat('x', 16777216))").message, "");
  EXPECT_EQ(db.refused("select postbus.post('a', repeat('x', 16777217))").state, "PB002");
  EXPECT_EQ(db.refused("select postbus.post('a', repeat('ü', 8388609))").state, "PB002");
  EXPECT_EQ(db.refused("select postbus.post('a', to_jsonb(repeat('x', 16777215)))").state, "PB002");
  db.psql("select postbus.set_payload_limit(10)");
  EXPECT_EQ(db.refused("select postbus.post('a', '1234567890')").message, "");
  const auto wrong = db.refused("select postbus.post('a', '12345678901')");
  EXPECT_EQ(wrong.state, "PB002");
  EXPECT_EQ(wrong.message, "the payload has 11 bytes, the limit is 10");
  EXPECT_EQ(db.refused("select postbus.set_payload_limit(0)").state, "22023");
  EXPECT_EQ(db.psql("select payload_limit from postbus.meta"), "10");
}

TEST(post, holds_in_sessions_that_are_open_when_the_transport_or_the_limit_changes) {
  const database db;
  session open{db.url()};
  open.psql("select postbus.post('a', 'x')");  // compiles and caches
  db.psql("select postbus.set_payload_limit(3)");
  EXPECT_EQ(open.refused("select postbus.post('a', '1234')").state, "PB002");
  EXPECT_EQ(db.psql("select postbus.use_transport('notify')"), "t");
  EXPECT_EQ(db.psql("select postbus.use_transport('notify')"), "f");
  const message_slot slot{db};
  open.psql("select postbus.post('a', 'x')");
  EXPECT_EQ(slot.take(), "");
  EXPECT_EQ(db.psql("select postbus.use_transport('wal')"), "t");
  open.psql("select postbus.post('a', 'x')");
  EXPECT_EQ(slot.take(), "postbus:t:a=x");
  EXPECT_EQ(db.refused("select postbus.use_transport('pigeon')").state, "22023");
}

TEST(post, by_notify_is_framed_unique_and_bounded) {
  const database db;
  db.psql("select postbus.use_transport('notify')");
  session listener{db.url()};
  listener.psql("listen \"postbus:post\"");
  session poster{db.url()};
  poster.psql(
      "begin; select postbus.post('ü', 'x'); savepoint s; select postbus.post('ü', 'gone'); rollback to s; select postbus.post('ü', 'x'); "
      "select postbus.post('ü', '[1]'::jsonb); commit");
  poster.psql("select postbus.post('a', '')");
  EXPECT_EQ(listener.notifications(),
            "postbus:post t0000000102üx\npostbus:post t0000000202üx\npostbus:post j0000000302ü[1]\npostbus:post t0000000101a\n");
  EXPECT_EQ(db.refused("select postbus.post('a', repeat('x', 7987))").message, "");
  const auto wrong = db.refused("select postbus.post('a', repeat('x', 7988))");
  EXPECT_EQ(wrong.state, "PB002");
  EXPECT_NE(wrong.hint.find("wal_level = logical"), std::string::npos) << wrong.hint;
  EXPECT_EQ(db.refused("select postbus.post('table:x', '')").state, "PB001");
}

TEST(post, is_for_posters_and_nothing_is_for_everybody) {
  const database db;
  db.psql(
      "do $$ begin create role post_nobody login password 'x'; create role post_poster login password 'x' in role postbus_poster; "
      "exception when duplicate_object then null; end $$");
  EXPECT_EQ(db.refused("select postbus.post('a', 'b')", db.url_as("post_nobody", "x")).state, "42501");
  EXPECT_EQ(
      db.refused("select postbus.post('a', 'b'), postbus.post('a', '1'::jsonb), postbus.position()", db.url_as("post_poster", "x")).message,
      "");
  for (const char* forbidden :
       {"select postbus.emit('table:x', false, 'forged')", "select postbus.use_transport('notify')", "select postbus.set_payload_limit(1)",
        "select postbus.new_epoch()", "update postbus.meta set epoch = 1", "select postbus.watch('postbus.meta')"})
    EXPECT_EQ(db.refused(forbidden, db.url_as("post_poster", "x")).state, "42501") << forbidden;
  EXPECT_EQ(db.psql("select string_agg(p.oid::regprocedure::text, ' ') from pg_proc p where p.pronamespace = 'postbus'::regnamespace "
                    "and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)"),
            "");
  EXPECT_EQ(db.psql("select string_agg(c.relname, ' ') from pg_class c where c.relnamespace = 'postbus'::regnamespace "
                    "and exists (select from aclexplode(c.relacl) a where a.grantee = 0)"),
            "");
  db.psql("drop owned by post_nobody, post_poster; drop role post_nobody, post_poster");
}

TEST(post, is_the_only_definer_function_without_a_pinned_search_path) {
  const database db;
  EXPECT_EQ(db.psql("select string_agg(p.oid::regprocedure::text, ' ' order by p.oid::regprocedure::text) from pg_proc p where "
                    "p.pronamespace = 'postbus'::regnamespace and p.prosecdef "
                    "and not exists (select from unnest(p.proconfig) c where c like 'search_path=%pg_catalog, pg_temp%')"),
            "postbus.post(text,jsonb) postbus.post(text,text)");
}

TEST(post, cannot_be_turned_by_a_hostile_search_path) {
  const database db;
  db.psql(R"(
    do $$ begin create role post_villain login password 'x' in role postbus_poster; exception when duplicate_object then null; end $$;
    create schema evil authorization post_villain;
    grant create on schema public to post_villain;)");
  session villain{db.url_as("post_villain", "x")};
  villain.psql(R"(
    create function evil.trap_ii(int, int) returns boolean language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create function evil.trap_tt(text, text) returns boolean language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create function evil.trap_cat(text, text) returns text language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create function evil.octet_length(text) returns int language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create function evil.pg_logical_emit_message(boolean, text, text) returns pg_lsn language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create operator evil.<= (leftarg = int, rightarg = int, function = evil.trap_ii);
    create operator evil.<> (leftarg = text, rightarg = text, function = evil.trap_tt);
    create operator evil.~~ (leftarg = text, rightarg = text, function = evil.trap_tt);
    create operator evil.!~~ (leftarg = text, rightarg = text, function = evil.trap_tt);
    create operator evil.!~ (leftarg = text, rightarg = text, function = evil.trap_tt);
    create function evil.trap_key(jsonb, text) returns jsonb language plpgsql as $$ begin raise 'trapped as %', current_user; end $$;
    create operator evil.-> (leftarg = jsonb, rightarg = text, function = evil.trap_key);
    create operator evil.|| (leftarg = text, rightarg = text, function = evil.trap_cat);
    create domain evil.text as pg_catalog.text check (length(value) < 0);
    create domain evil.jsonb as pg_catalog.jsonb check (false);
    set search_path = evil, pg_catalog;)");
  EXPECT_EQ(villain.refused("select 1 <= 2").message, "trapped as post_villain");  // the trap works
  const message_slot slot{db};
  EXPECT_EQ(villain.refused("select postbus.post('a', 'x'::pg_catalog.text), postbus.post('a', '1'::pg_catalog.jsonb)").message, "");
  EXPECT_EQ(slot.take(), "postbus:t:a=x\npostbus:j:a=1");
  EXPECT_EQ(villain.refused("select postbus.post('table:a', 'x'::pg_catalog.text)").state, "PB001");
  db.psql("select postbus.create_stream('s')");
  EXPECT_EQ(villain.refused("select postbus.post('s', 'x'::pg_catalog.text), postbus.post('s', '1'::pg_catalog.jsonb)").message, "");
  EXPECT_EQ(db.psql("select count(*) from postbus.messages"), "2");
  db.psql("select postbus.use_transport('notify')");
  EXPECT_EQ(villain.refused("select postbus.post('a', 'x'::pg_catalog.text)").message, "");
  db.psql("drop schema evil cascade; drop owned by post_villain; drop role post_villain");
}

TEST(post, still_works_where_emitting_is_revoked_and_forging_does_not) {
  const database db;
  db.psql("create role post_forger login password 'x' in role postbus_poster");
  const auto as = db.url_as("post_forger", "x");
  EXPECT_EQ(db.refused("select pg_logical_emit_message(true, 'postbus:t:table:public.t', 'forged')", as).message,
            "");  // PostgreSQL's default
  db.psql(postgres::revoke_emit_sql());
  EXPECT_EQ(db.refused("select pg_logical_emit_message(true, 'postbus:t:table:public.t', 'forged')", as).state, "42501");
  EXPECT_EQ(db.refused("select postbus.post('a', 'b')", as).message, "");
  db.psql("drop owned by post_forger; drop role post_forger");
}

TEST(position, is_an_upper_bound_of_what_one_wrote) {
  const database db;
  const auto text = db.psql("select postbus.position()");
  EXPECT_EQ(text.size(), 34U);
  EXPECT_TRUE(text.ends_with("-7fffffff"));
  db.psql("select postbus.post('a', 'b')");
  EXPECT_GT(db.psql("select postbus.position()"), text);
  EXPECT_EQ(db.psql("select left(postbus.position(), 8) = lpad(to_hex(epoch), 8, '0') from postbus.meta"), "t");
}

TEST(epoch, changes_when_positions_lose_their_meaning_and_not_before) {
  const database db;
  const auto claim = [&](const char* with) { return db.psql(fmt::format("select postbus.claim_epoch({})", with)); };
  const auto first = claim("'7000', 1");
  EXPECT_EQ(claim("'7000', 1"), first);
  const auto promoted = claim("'7000', 2");
  EXPECT_NE(promoted, first);
  const auto restored = claim("'7001', 2");
  EXPECT_NE(restored, promoted);
  EXPECT_EQ(claim("'7001', 2"), restored);
  EXPECT_NE(db.psql("select postbus.new_epoch()"), restored);
  EXPECT_EQ(db.refused("select postbus.claim_epoch(null, 1)").state, "22023");
  // A copy of the database is another database: `create database … template` copies meta.
  db.psql("update postbus.meta set database_oid = 1");
  const auto here = db.psql("select epoch from postbus.meta");
  EXPECT_NE(claim("'7001', 2"), here);
}

}  // namespace
}  // namespace postbus
