#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "base/clock.hpp"
#include "postgres/migrations.hpp"
#include "support/cluster.hpp"
#include "support/program.hpp"

// The commands that work on the database itself, as a user runs them: the built program, its output and its exit status.

namespace postbus {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing_support::database;
using testing_support::outcome;
using testing_support::program;
using testing_support::run_program;

/** The command on a database, named by POSTBUS_DB. */
outcome on(const database& db, program::words words, std::string_view input = {}) {
  return run_program(std::move(words), {{"POSTBUS_DB", db.url()}}, input);
}

/** What has been posted since `slot` was made, as psql prints it. */
std::string posted(const database& db) {
  return db.psql(
      "select prefix || ' ' || convert_from(content, 'UTF8') from (select data from pg_logical_slot_get_changes('posted', null, null)) raw,"
      " lateral (select substring(data from 'prefix: (.*), sz') as prefix, convert_to(substring(data from 'content:(.*)'), 'UTF8') as "
      "content) parts"
      " where data like 'message:%'");
}

class command_line_sql : public testing::Test {
protected:
  void TearDown() override {
    // The slot must go before its database does.
    db.psql(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'posted' and database = "
        "current_database()");
  }
  void collect() { db.psql("select pg_create_logical_replication_slot('posted', 'test_decoding')"); }
  database db;
};

TEST_F(command_line_sql, post_sends_text_json_and_nothing_at_all) {
  collect();
  EXPECT_EQ(on(db, {"post", "orders", "hello ü"}).status, 0);
  EXPECT_EQ(on(db, {"post", "orders", "--json", R"({"a": 1})"}).status, 0);
  EXPECT_EQ(on(db, {"post", "orders"}).status, 0);
  EXPECT_EQ(on(db, {"post", "orders", "--", "-5"}).status, 0);
  EXPECT_EQ(posted(db), "postbus:t:orders hello ü\npostbus:j:orders {\"a\": 1}\npostbus:t:orders \npostbus:t:orders -5");
}

TEST_F(command_line_sql, post_takes_one_message_per_line_with_every_byte_as_it_is) {
  collect();
  const auto run = on(db, {"post", "log", "-"}, "one\n\n{\"quoted, \\ and braced\"}\nNULL\nlast without an end");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.err, IsEmpty());
  EXPECT_EQ(posted(db),
            "postbus:t:log one\npostbus:t:log \npostbus:t:log {\"quoted, \\ and braced\"}\npostbus:t:log NULL\npostbus:t:log last without "
            "an end");
}

TEST_F(command_line_sql, post_says_which_line_was_refused_and_keeps_those_before) {
  collect();
  const auto run = on(db, {"post", "log", "-"}, "good\nbad\xff\nnever read\n");
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.err, HasSubstr("1 lines posted; line 2"));
  EXPECT_EQ(posted(db), "postbus:t:log good");
}

TEST_F(command_line_sql, a_line_that_comes_alone_is_posted_without_waiting_for_more) {
  collect();
  program run{{"post", "log", "-"}, {{"POSTBUS_DB", db.url()}}};
  run.write("first\n");
  std::string seen;
  for (const auto until = steady::now() + std::chrono::minutes{1}; seen.empty() && steady::now() < until;) seen = posted(db);
  EXPECT_EQ(seen, "postbus:t:log first");
  run.write("second\n");
  EXPECT_EQ(run.wait(), 0);
  EXPECT_EQ(posted(db), "postbus:t:log second");
}

TEST_F(command_line_sql, post_refuses_names_that_are_not_allowed) {
  EXPECT_EQ(on(db, {"post", "table:public.orders", "x"}).status, 2);
  EXPECT_EQ(on(db, {"post", "", "x"}).status, 2);
  EXPECT_EQ(on(db, {"post", std::string(256, 'x'), "x"}).status, 2);
  EXPECT_EQ(on(db, {"post", std::string(255, 'x'), "x"}).status, 0);
  EXPECT_EQ(on(db, {"post", "a\nb", "x"}).status, 2);
}

TEST_F(command_line_sql, watch_watched_unwatch) {
  db.psql("create table orders(id int primary key, what text); create table plain(n int)");
  EXPECT_THAT(on(db, {"watched"}).err, HasSubstr("no table is watched"));
  ASSERT_EQ(on(db, {"watch", "orders", "--notify", "events"}).status, 0);
  const auto listed = on(db, {"watched"});
  EXPECT_EQ(listed.out,
            "table          channel              columns  mirrored to  state\n"
            "public.orders  table:public.orders  all      events       live\n");
  EXPECT_THAT(on(db, {"watched", "--json"}).out, HasSubstr(R"("notify" : "events")"));
  EXPECT_EQ(on(db, {"unwatch", "orders"}).status, 0);
  EXPECT_EQ(on(db, {"watched"}).out, "");
  const auto again = on(db, {"unwatch", "orders"});
  EXPECT_EQ(again.status, 1);
  EXPECT_THAT(again.err, HasSubstr("not watched"));
}

TEST_F(command_line_sql, watch_names_the_table_that_was_refused_and_the_fix) {
  db.psql("create table good(id int primary key); create table keyless(n int)");
  const auto missing = on(db, {"watch", "nowhere"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.err, HasSubstr("nowhere: there is no such table"));
  const auto refused = on(db, {"watch", "good", "keyless"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("watching good"));
  EXPECT_THAT(refused.err, HasSubstr("keyless"));
  EXPECT_THAT(refused.err, HasSubstr("replica identity"));
}

TEST_F(command_line_sql, a_text_that_names_no_table_is_refused_in_our_own_words) {
  for (const auto* command : {"watch", "unwatch"}) {
    for (const auto* wrong : {"a.b.c", "a..b", "\"a", "", "a.b.c.d"}) {
      const auto refused = on(db, {command, wrong});
      EXPECT_EQ(refused.status, 1);
      EXPECT_EQ(refused.err,
                "postbus: '" + std::string{wrong} + "' cannot be the name of a table: it is named schema.table, as in public.orders\n");
    }
    EXPECT_THAT(on(db, {command, "nowhere.orders"}).err, HasSubstr("nowhere.orders: there is no such table"));
  }
}

TEST_F(command_line_sql, the_way_out_that_is_named_leads_somewhere) {
  const auto ours = on(db, {"watch", "postbus.meta"});
  EXPECT_EQ(ours.status, 1);
  EXPECT_THAT(ours.err, testing::AllOf(HasSubstr("watch a table of your own"), testing::Not(HasSubstr("alter table"))));
  db.psql("create table orders(id int primary key); select postbus.watch('orders')");
  const auto feed = db.refused("select postbus.ack('table:public.orders', 'c', postbus.position())");
  EXPECT_EQ(feed.state, "PB030");
  EXPECT_THAT(feed.hint, testing::AllOf(HasSubstr("resumes after it"), testing::Not(HasSubstr("create_stream"))));
  EXPECT_THAT(db.refused("select postbus.ack('orders', 'c', postbus.position())").hint,
              HasSubstr("select postbus.create_stream('orders')"));
}

TEST_F(command_line_sql, what_our_own_sql_refuses_is_told_once) {
  const auto refused = on(db, {"stream", "create", "orders", "--keep", "-1 day"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_EQ(refused.err, "postbus: keep is an interval of a second or more; keep => '7 days'\n");
}

TEST_F(command_line_sql, what_PostgreSQL_would_refuse_is_told_in_our_own_words) {
  const auto broken = on(db, {"post", "orders", "--json", "{bad"});
  EXPECT_EQ(broken.status, 1);
  EXPECT_THAT(broken.err, HasSubstr("it is not JSON"));
  EXPECT_THAT(on(db, {"post", "orders", "--json", "-"}, "1\nbad\n").err,
              HasSubstr("1 lines posted; line 2 and those after it not: it is not JSON"));
  const auto soon = on(db, {"stream", "create", "orders", "--keep", "soon"});
  EXPECT_EQ(soon.status, 2);
  EXPECT_EQ(soon.err, "postbus: --keep soon: it is a length of time, such as '7 days' or '12 hours'\n");
}

TEST_F(command_line_sql, psql_reaches_the_database_and_keeps_the_password_out_of_its_arguments) {
  db.psql("create role walker login password 'to p''s\\ecret'");
  const auto url = db.url_as("walker", "to%20p%27s%5Cecret");
  const auto run = run_program({"--db", url, "psql", "--", "-Atc", "select current_user"});
  EXPECT_EQ(run.out, "walker\n") << run.err;
  program open{{"--db", url, "psql", "--", "-Atc", "select pg_sleep(60)"}};
  std::string arguments;
  for (const auto until = steady::now() + std::chrono::minutes{1};
       arguments.find("--dbname") == std::string::npos && steady::now() < until;) {
    std::ifstream file{"/proc/" + std::to_string(open.pid()) + "/cmdline", std::ios::binary};
    arguments.assign(std::istreambuf_iterator<char>{file}, {});
  }
  EXPECT_THAT(arguments, HasSubstr("walker"));
  EXPECT_THAT(arguments, testing::Not(HasSubstr("ecret")));
  db.psql("drop owned by walker");
  open.signal(SIGKILL);
  open.wait();
  db.psql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'walker'; drop role walker");
}

TEST(command_line_setup, installs_once_prints_and_refuses_what_does_not_fit) {
  const database db{database::with::nothing};
  const auto before = on(db, {"post", "a", "b"});
  EXPECT_EQ(before.status, 1);
  EXPECT_THAT(before.err, HasSubstr("setup"));
  const auto printed = on(db, {"setup", "--print"});
  EXPECT_EQ(printed.status, 0);
  EXPECT_THAT(printed.out, HasSubstr("create schema"));
  EXPECT_EQ(db.psql("select count(*) from pg_namespace where nspname = 'postbus'"), "0");

  ASSERT_EQ(on(db, {"setup"}).status, 0);
  EXPECT_THAT(on(db, {"setup"}).err, HasSubstr("nothing to do"));
  EXPECT_EQ(on(db, {"post", "a", "b"}).status, 0);

  db.psql("update postbus.meta set schema_version = 999; insert into postbus.migrations values (999, '0999_future', false)");
  const auto newer = on(db, {"post", "a", "b"});
  EXPECT_EQ(newer.status, 1);
  EXPECT_THAT(newer.err, HasSubstr("999"));
  EXPECT_THAT(newer.err, HasSubstr(std::to_string(postgres::schema_version())));
  EXPECT_EQ(on(db, {"setup"}).status, 1);
}

TEST(command_line_setup, revoke_emit_closes_the_way_to_forge_messages) {
  const database db;
  ASSERT_EQ(on(db, {"setup", "--revoke-emit"}).status, 0);
  EXPECT_EQ(
      db.psql(
          "select bool_or(has_function_privilege('public', p.oid, 'execute')) from pg_proc p where proname = 'pg_logical_emit_message'"),
      "f");
}

TEST(command_line_usage, exit_statuses_and_texts) {
  const testing_support::temporary_folder empty;
  EXPECT_EQ(run_program({"--version"}).status, 0);
  EXPECT_THAT(run_program({"--version"}).out, HasSubstr("schema " + std::to_string(postgres::schema_version())));
  EXPECT_EQ(run_program({}).status, 2);
  const auto unknown = run_program({"--data", empty.path(), "nonsense", "--json"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_EQ(unknown.err, "postbus: there is no command 'nonsense'\nTry `postbus --help`.\n");
  EXPECT_EQ(run_program({"--nonsense"}).err, "postbus: there is no option '--nonsense'\nTry `postbus --help`.\n");
  EXPECT_THAT(run_program({"stream", "list", "--nonsense"}).err, HasSubstr("--nonsense"));
  EXPECT_EQ(run_program({"post"}).status, 2);
  EXPECT_EQ(run_program({"wait", "x", "--timeout", "soon"}).status, 2);
  for (const auto* count : {"0", "-1", "some", "99999999999999999999999"})
    EXPECT_EQ(run_program({"listen", "x", "--count", count}).err,
              fmt::format("postbus: --count: {} is no count; it is a whole number from 1 "
                          "to 9223372036854775807\nTry `postbus listen --help`.\n",
                          count));
  EXPECT_THAT(run_program({"post", "x", "-v"}).err, HasSubstr("stands behind --: postbus post CHANNEL -- '-v'"));
  EXPECT_THAT(run_program({"serve", "--port", "99999"}).err, HasSubstr("99999 is no port; it is a number from 0 to 65535"));
  EXPECT_EQ(run_program({"serve", "--listen", "127.0.0.1:99999"}).status, 2);
  for (const program::words& empty_value :
       {program::words{"watch", "x", "--notify", ""}, {"serve", "--tokens", ""}, {"listen", "x", "--resume", ""}}) {
    const auto refused = run_program(empty_value);
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, HasSubstr("it is empty"));
  }
  for (const program::words& unheard : {program::words{"stream", "list", "--keep", "1 day"},
                                        {"stream", "drop", "x", "--max-count", "1"},
                                        {"stream", "create", "x", "--json"}})
    EXPECT_EQ(run_program(unheard).status, 2);
  EXPECT_THAT(run_program({"stream", "create", "table:x"}).err, HasSubstr("name another channel"));
  EXPECT_EQ(run_program({"serve", "--tokens", empty.path() + "/none"}).status, 1);
  std::ofstream{empty.path() + "/tokens.toml"} << "x = 1\n";
  EXPECT_EQ(run_program({"serve", "--tokens", empty.path() + "/tokens.toml"}).status, 1);
  EXPECT_THAT(run_program({"listen", "table:public.x", "--where", " "}).err, HasSubstr("`where` is empty"));
  EXPECT_EQ(run_program({"--url", "ftp://x", "status"}).status, 2);
  EXPECT_EQ(run_program({"--db", "host = = x", "psql"}).status, 2);
  EXPECT_EQ(run_program({"serve", "--listen", "127.0.0.1"}).status, 2);
  EXPECT_EQ(run_program({"serve", "--tls-cert", "only.pem"}).status, 2);
  for (const auto* command : {"post", "listen", "wait", "watch", "unwatch", "watched", "status", "psql"}) {
    const auto help = run_program({command, "--help"});
    EXPECT_EQ(help.status, 0) << command;
    EXPECT_THAT(help.out, HasSubstr("Example:\n  postbus")) << command;
    program::words words{"--data", empty.path(), command};
    if (std::string_view{command} != "watched" && std::string_view{command} != "status" && std::string_view{command} != "psql")
      words.emplace_back("x");
    const auto alone = run_program(words);
    EXPECT_EQ(alone.status, 3) << command;
    EXPECT_THAT(alone.err, HasSubstr("postbus serve")) << command;
  }
}

TEST(command_line_usage, the_manual_names_every_command_and_option) {
  std::ifstream file{POSTBUS_SOURCE_DIR "/docs/cli.md"};
  const std::string manual{std::istreambuf_iterator<char>{file}, {}};
  for (const auto* command : {"", "serve", "setup", "doctor", "post", "listen", "wait", "watch", "unwatch", "watched", "status", "psql"}) {
    program::words words{"--help"};
    if (*command != 0) {
      words.insert(words.begin(), command);
      EXPECT_THAT(manual, HasSubstr(std::string{"`"} + command)) << "docs/cli.md";
    }
    const auto help = run_program(std::move(words)).out;
    const std::regex option{"^  (?:-h,)?(--[a-z-]+)", std::regex::multiline};
    std::size_t found = 0;
    for (std::sregex_iterator each{help.begin(), help.end(), option}, end; each != end; ++each, ++found)
      EXPECT_THAT(manual, HasSubstr((*each)[1].str())) << command << ": docs/cli.md";
    EXPECT_GT(found, 0U) << command;
  }
}

TEST(command_line_usage, flags_win_over_the_environment_and_that_over_the_file) {
  const testing_support::temporary_folder folder;
  const auto file = folder.path() + "/postbus.toml";
  std::ofstream{file} << "url = \"http://127.0.0.1:1\"\n";
  const auto said = [&](program::words words, program::environment extra) {
    words.insert(words.end(), {"status"});
    return run_program(std::move(words), std::move(extra)).err;
  };
  EXPECT_THAT(said({"--config", file}, {}), HasSubstr("127.0.0.1:1:"));
  EXPECT_THAT(said({"--config", file}, {{"POSTBUS_URL", "http://127.0.0.2:1"}}), HasSubstr("127.0.0.2:1:"));
  EXPECT_THAT(said({"--config", file, "--url", "http://127.0.0.3:1"}, {{"POSTBUS_URL", "http://127.0.0.2:1"}}), HasSubstr("127.0.0.3:1:"));
  const auto wrong = [&](std::string_view content) {
    std::ofstream{file} << content;
    const auto refused = run_program({"--config", file, "status"});
    EXPECT_EQ(refused.status, 2);
    return refused.err;
  };
  EXPECT_THAT(wrong("nonsense = 1\n"), HasSubstr("line 1 of the configuration file: there is no setting `nonsense`;"));
  EXPECT_THAT(wrong("[serve]\nprot = 1\n"), HasSubstr("line 2 of the configuration file: there is no setting `prot` below [serve];"));
  EXPECT_EQ(wrong("url = 5\n"), "postbus: line 1 of the configuration file: `url` is a text in quotes\n");
  EXPECT_EQ(run_program({"--config", folder.path() + "/missing.toml", "status"}).status, 2);
}

}  // namespace
}  // namespace postbus
