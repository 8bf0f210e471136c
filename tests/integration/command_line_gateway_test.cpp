#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "client/resume_file.hpp"
#include "support/cluster.hpp"
#include "support/memory_gateway.hpp"
#include "support/program.hpp"

// The commands that talk to a gateway, as a user runs them: the built program on both ends, killed where that matters.

namespace postbus {
namespace {

using testing::HasSubstr;
using testing_support::database;
using testing_support::outcome;
using testing_support::program;
using testing_support::run_program;
using testing_support::temporary_folder;

std::string text(const boost::json::value& json, std::string_view name) {
  const auto& member = json.at(boost::json::string_view{name.data(), name.size()});
  return member.is_string() ? std::string{member.get_string()} : std::string{};
}

std::string sha256(std::string_view of) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  EVP_Digest(of.data(), of.size(), digest.data(), &size, EVP_sha256(), nullptr);
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
}

/** `postbus serve` on a fresh database, on a port that stays the same when it is started again. */
class command_line_gateway : public testing::Test {
protected:
  void SetUp() override { start(); }

  void start(program::words more = {}) {
    program::words words{"--db", db.url(), "serve", "--threads", "1", "--port", port};
    words.insert(words.end(), more.begin(), more.end());
    gateway = std::make_unique<program>(words);
    const auto line = gateway->line();
    ASSERT_TRUE(line) << gateway->rest_of_errors();
    const auto at = line->find("http");
    ASSERT_NE(at, std::string::npos) << *line;
    url = line->substr(at);
    port = url.substr(url.rfind(':') + 1);
  }
  void kill_gateway() {
    gateway->signal(SIGKILL);
    EXPECT_EQ(gateway->wait(), 128 + SIGKILL);
  }
  outcome run(program::words words, std::string_view input = {}) { return run_program(std::move(words), {{"POSTBUS_URL", url}}, input); }
  std::unique_ptr<program> open(program::words words, program::environment extra = {}) {
    extra.emplace("POSTBUS_URL", url);
    return std::make_unique<program>(std::move(words), std::move(extra));
  }
  void post(std::string_view channel, std::string_view payload) {
    db.psql(fmt::format("select postbus.post('{}', '{}'::text)", channel, payload));
  }
  /** Waits until a listener is confirmed: it gets what is posted again and again until it has it. */
  std::string first_line(program& listener, std::string_view channel) {
    for (int i = 0; i < 600; ++i) {
      post(channel, "knock");
      if (const auto line = listener.line(std::chrono::milliseconds{50})) return *line;
    }
    return {};
  }

  database db;
  temporary_folder folder;
  std::string port{"0"};
  std::string url;
  std::unique_ptr<program> gateway;
};

TEST_F(command_line_gateway, listen_prints_posts_feeds_and_plain_notify) {
  db.psql("create table orders(id int primary key, what text)");
  db.psql("select postbus.watch('orders')");
  auto listener = open({"listen", "a", "table:public.orders", "--json", "--count", "4", "--from", "beginning"});
  EXPECT_EQ(run({"post", "a", "hello \"ü\""}).status, 0);
  EXPECT_EQ(run({"post", "a", "--json", R"({"n":12345678901234567890.123})"}).status, 0);
  db.psql("insert into orders values (1, 'x')");
  const auto first = listener->line(), second = listener->line(), third = listener->line();
  ASSERT_TRUE(first && second && third);
  db.psql("notify a, 'plain'");
  const auto fourth = listener->line();
  ASSERT_TRUE(fourth);
  EXPECT_EQ(listener->wait(), 0);
  std::map<std::string, boost::json::value> by_payload;
  std::set<std::string> whole{*first, *second, *third, *fourth};
  EXPECT_THAT(whole, testing::Contains(HasSubstr(R"("channel":"a","kind":"message")")));
  EXPECT_THAT(whole, testing::Contains(HasSubstr(R"("payload":"hello \"ü\""})")));
  EXPECT_THAT(whole, testing::Contains(HasSubstr("12345678901234567890.123")));
  EXPECT_THAT(whole, testing::Contains(HasSubstr(R"("kind":"insert")")));
  EXPECT_THAT(whole, testing::Contains(HasSubstr(R"("payload":"plain"})")));
  for (const auto& line : whole) EXPECT_NO_THROW(text(boost::json::parse(line), "id")) << line;
}

TEST_F(command_line_gateway, listen_begins_with_the_backlogs_of_several_streams_and_says_which_channel_is_refused) {
  constexpr int each = 3000;  // of three: the last one's confirmation stands behind more than the queue takes
  db.psql(
      fmt::format("select postbus.create_stream(c) from unnest('{{x,y,z}}'::text[]) c;"
                  "select postbus.post(c, n::text) from unnest('{{x,y,z}}'::text[]) c, generate_series(1, {}) n",
                  each));
  const auto file = folder.path() + "/resume";
  std::map<std::string, int> seen;
  const auto take = [&](const outcome& ran) {
    ASSERT_EQ(ran.status, 0) << ran.err;
    std::istringstream lines{ran.out};
    for (std::string line; std::getline(lines, line);) {
      const auto e = boost::json::parse(line);
      ASSERT_EQ(text(e, "payload"), std::to_string(++seen[text(e, "channel")])) << line;
    }
  };
  for (const int count : {each, 2 * each})
    take(run({"listen", "x", "y", "z", "--from", "beginning", "--resume", file, "--json", "--count", std::to_string(count)}));
  EXPECT_THAT(seen, (std::map<std::string, int>{{"x", each}, {"y", each}, {"z", each}}));
  const auto refused = run({"listen", "x", "table:public.nobody_watches", "--from", "beginning"});
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("postbus watch public.nobody_watches"));
}

TEST_F(command_line_gateway, listen_is_told_which_channel_a_feed_has_and_what_watches_a_table) {
  db.psql(
      "create schema s; create table orders(id int primary key); create table s.orders(id int primary key); "
      "create table \"Odd \"\"name\"(id int primary key); select postbus.watch('orders'), postbus.watch('\"Odd \"\"name\"')");
  const auto bare = run({"listen", "table:orders"});
  EXPECT_EQ(bare.status, 1);
  EXPECT_THAT(bare.err, HasSubstr("table:public.orders"));
  for (const auto* unwatched : {"s.orders", "public.ORDERS2", "a.b.c"}) {
    const auto refused = run({"listen", fmt::format("table:{}", unwatched)});
    EXPECT_EQ(refused.status, 1);
    EXPECT_THAT(refused.err, HasSubstr(unwatched));
  }
  EXPECT_THAT(run({"wait", "table:s.orders", "--timeout", "5s"}).err, HasSubstr("postbus watch s.orders"));
  for (const auto* named : {"table:public.orders", "table:public.Odd \"name"}) {
    auto listener = open({"listen", named, "--count", "1", "--from", "beginning"});
    db.psql(
        "insert into orders select max(id) from (select 1 as id union all select id + 1 from orders) n; "
        "insert into \"Odd \"\"name\" select max(id) from (select 1 as id union all select id + 1 from \"Odd \"\"name\") n");
    EXPECT_THAT(listener->line().value_or(""), HasSubstr(named));
    EXPECT_EQ(listener->wait(), 0);
  }
  // Unwatched, and made known to the gateway by an event behind it: who resumes still gets what came before.
  const auto position = folder.path() + "/position";
  const auto resume = [&] {
    return run({"listen", "table:public.orders", "--json", "--count", "1", "--from", "beginning", "--resume", position});
  };
  EXPECT_EQ(resume().status, 0);
  db.psql("insert into orders values (100); select postbus.unwatch('orders')");
  post("behind", "x");
  EXPECT_EQ(run({"wait", "behind", "--from", "beginning", "--timeout", "10s"}).out, "x\n");
  std::string last;
  while (last.find("\"id\":100}") == std::string::npos) {
    const auto more = resume();
    ASSERT_EQ(more.status, 0) << more.err;
    last = more.out;
  }
  EXPECT_THAT(run({"listen", "table:public.orders"}).err, HasSubstr("postbus watch public.orders"));
}

TEST_F(command_line_gateway, people_get_one_line_per_event_without_control_characters) {
  auto listener = open({"listen", "a"});
  ASSERT_THAT(first_line(*listener, "a"), testing::MatchesRegex("..:..:......  a  knock"));
  EXPECT_EQ(run({"post", "a", "two\nlines \x1b[31m"}).status, 0);
  std::optional<std::string> line;
  do line = listener->line();
  while (line && line->ends_with("knock"));
  ASSERT_TRUE(line);
  EXPECT_THAT(*line, HasSubstr("two\\nlines \\x1b[31m"));
  listener->signal(SIGINT);
  EXPECT_EQ(listener->wait(), 0);
}

TEST_F(command_line_gateway, wait_prints_one_payload_or_gives_up_with_status_4) {
  auto waiting = open({"wait", "deployed"});
  const auto got = first_line(*waiting, "deployed");
  EXPECT_EQ(got, "knock");
  EXPECT_EQ(waiting->wait(), 0);
  const auto late = run({"wait", "never", "--timeout", "200ms"});
  EXPECT_EQ(late.status, 4);
  EXPECT_THAT(late.err, HasSubstr("never"));
  EXPECT_EQ(late.out, "");
}

TEST_F(command_line_gateway, post_goes_through_a_named_gateway_line_by_line) {
  auto listener = open({"listen", "log", "--json", "--count", "3", "--from", "beginning"});
  ASSERT_EQ(run({"post", "log", "-"}, "one\ntwo\nthree").status, 0);
  for (const auto* expected : {"one", "two", "three"}) {
    const auto line = listener->line();
    ASSERT_TRUE(line);
    EXPECT_EQ(text(boost::json::parse(*line), "payload"), expected);
  }
  EXPECT_EQ(listener->wait(), 0);
  const auto large = run({"post", "log", "-"}, "fine\n" + std::string(17u << 20, 'x') + "\n");
  EXPECT_EQ(large.status, 1);
  EXPECT_THAT(large.err, HasSubstr("1 lines posted; line 2"));
}

TEST_F(command_line_gateway, status_is_a_document_and_a_table) {
  auto listener = open({"listen", "busy channel"});
  first_line(*listener, "busy channel");
  const auto document = boost::json::parse(run({"status", "--json"}).out);
  EXPECT_TRUE(document.at("ready").as_bool());
  EXPECT_EQ(text(document.at("tier"), "name"), "wal");
  EXPECT_TRUE(document.at("channels").is_array());
  for (const auto* rate : {"events_in_per_s", "events_out_per_s", "posts_per_s"})
    EXPECT_GE(document.at(rate).to_number<double>(), 0) << rate;
  EXPECT_EQ(run({"post", "busy channel", "one"}).status, 0);
  first_line(*listener, "busy channel");
  const auto now = boost::json::parse(run({"status", "--json"}).out);
  EXPECT_GT(now.at("events_in_per_s").to_number<double>(), 0);
  EXPECT_GT(now.at("events_out_per_s").to_number<double>(), 0);
  std::ifstream file{POSTBUS_SOURCE_DIR "/docs/cli.md"};
  const std::string manual{std::istreambuf_iterator<char>{file}, {}};
  for (const auto& member : now.as_object())
    EXPECT_TRUE(manual.contains(fmt::format("`{}`", std::string{member.key()}))) << "docs/cli.md lacks " << member.key();
  const auto shown = run({"status"});
  EXPECT_THAT(shown.out, testing::ContainsRegex("events out per s +[0-9.]+"));
  EXPECT_EQ(shown.status, 0);
  EXPECT_THAT(shown.out, HasSubstr(url));
  EXPECT_THAT(shown.out, testing::ContainsRegex("busy channel +1 "));
  listener->signal(SIGTERM);
  EXPECT_EQ(listener->wait(), 0);
}

TEST_F(command_line_gateway, a_killed_log_with_resume_repeats_events_and_misses_none) {
  constexpr int total = 400;
  const auto position = folder.path() + "/position";
  std::map<std::string, std::string> seen;  // id to payload
  std::set<std::string> payloads;
  const auto take = [&](const std::string& line) {
    const auto e = boost::json::parse(line);
    ASSERT_EQ(text(e, "kind"), "message") << line;
    const auto [known, is_new] = seen.emplace(text(e, "id"), text(e, "payload"));
    EXPECT_EQ(known->second, text(e, "payload")) << "one position, two payloads";
    payloads.insert(text(e, "payload"));
  };
  const program::words words{"listen", "log", "--json", "--from", "beginning", "--resume", position};
  int posted = 0;
  for (int round = 0; round < 8; ++round) {
    auto listener = open(words);
    db.psql(fmt::format("select postbus.post('log', n::text) from generate_series({}, {}) n", posted, posted + total / 8 - 1));
    posted += total / 8;
    for (int i = 0; i < 7 + round * 5; ++i) {
      const auto line = listener->line();
      ASSERT_TRUE(line) << listener->rest_of_errors();
      take(*line);
    }
    listener->signal(SIGKILL);
    listener->wait();
    // What it printed before it died stands in its output, as it would in the log file.
    auto rest = listener->rest_of_output();
    for (std::size_t end = 0; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1)) take(rest.substr(0, end));
  }
  // One more, which none of the killed ones can have printed: its arrival shows that the last one is up.
  constexpr std::size_t all = total + 1;
  auto last = open(words);
  db.psql("select postbus.post('log', 'the last one')");
  while (payloads.size() < all) {
    const auto line = last->line(std::chrono::seconds{10});
    ASSERT_TRUE(line) << "only " << payloads.size() << " of " << all << " arrived";
    take(*line);
  }
  last->signal(SIGTERM);
  EXPECT_EQ(last->wait(), 0);
  const auto saved = remote::resume_file{position}.load().value();
  EXPECT_EQ(saved.at("log"), seen.rbegin()->first);
  EXPECT_EQ(seen.size(), all);
}

TEST_F(command_line_gateway, a_killed_gateway_is_come_back_to_and_nothing_is_missing) {
  const auto position = folder.path() + "/position";
  auto listener = open({"listen", "log", "--json", "--resume", position});
  ASSERT_NE(first_line(*listener, "log"), "");
  kill_gateway();
  ASSERT_THAT(listener->error_line().value_or(""), HasSubstr("trying again"));
  post("log", "while it was down");
  start();
  ASSERT_THAT(listener->error_line().value_or(""), HasSubstr("again"));
  post("log", "after");
  for (const auto* expected : {"while it was down", "after"}) {
    const auto line = listener->line();
    ASSERT_TRUE(line) << "the listener has fallen silent";
    EXPECT_EQ(text(boost::json::parse(*line), "payload"), expected);
  }
  listener->signal(SIGTERM);
  EXPECT_EQ(listener->wait(), 0);
  EXPECT_TRUE(remote::resume_file{position}.load().value().contains("log"));
}

TEST_F(command_line_gateway, a_stop_does_not_wait_for_who_keeps_the_publication_from_being_mended) {
  db.psql("create table a(id int primary key); create table b(id serial primary key); select postbus.watch('a'), postbus.watch('b')");
  // The reader mends it when the stream breaks off, whoever looks after the slot when nothing is written for ten seconds.
  for (const auto* written : {"insert into b default values", "select 1"}) {
    testing_support::session locker{db.url()};
    locker.psql("begin; lock table a in access exclusive mode");
    db.psql("drop publication postbus");
    db.psql(written);
    const auto waits = [&] {
      return db.psql(
                 "select exists (select from pg_locks where not granted and database = (select oid from pg_database where datname = "
                 "current_database()))") == "t";
    };
    for (const auto until = steady::now() + std::chrono::minutes{1}; !waits();) ASSERT_LT(steady::now(), until);
    gateway->signal(SIGTERM);
    EXPECT_EQ(gateway->wait(), 0);
    EXPECT_THAT(gateway->rest_of_errors(), testing::AllOf(HasSubstr("stopped"), testing::Not(HasSubstr("did not end in time"))));
    locker.psql("rollback");
    start();
  }
}

TEST_F(command_line_gateway, a_gateway_that_drains_sends_its_listeners_away_without_an_error) {
  auto listener = open({"listen", "log", "--json"});
  ASSERT_NE(first_line(*listener, "log"), "");
  gateway->signal(SIGTERM);
  EXPECT_EQ(gateway->wait(), 0);
  ASSERT_THAT(listener->error_line().value_or(""), HasSubstr("1001"));
  start();
  ASSERT_NE(first_line(*listener, "log"), "");
  listener->signal(SIGINT);
  EXPECT_EQ(listener->wait(), 0);
}

TEST_F(command_line_gateway, tokens_decide_and_a_refusal_ends_the_command) {
  gateway->signal(SIGTERM);
  gateway->wait();
  const auto tokens = folder.path() + "/tokens.toml";
  std::ofstream{tokens} << "[[token]]\nname = \"reader\"\nsha256 = \"" << sha256("sesame") << "\"\nlisten = [\"orders\"]\npost = []\n";
  start({"--tokens", tokens});
  const auto none = run({"listen", "orders"});
  EXPECT_EQ(none.status, 1);
  EXPECT_THAT(none.err, testing::AllOf(HasSubstr("this needs a token"), HasSubstr("POSTBUS_TOKEN")));
  for (const program::words& command : {program::words{"listen", "orders"}, {"post", "orders", "x"}, {"status"}})
    EXPECT_EQ(run_program(command, {{"POSTBUS_URL", url}, {"POSTBUS_TOKEN", "other"}}).err,
              "postbus: this gateway does not know the token: it is wrong, or was revoked; commands take it from POSTBUS_TOKEN\n");
  const program::environment sesame{{"POSTBUS_URL", url}, {"POSTBUS_TOKEN", "sesame"}};
  const auto narrow = run_program({"listen", "orders", "invoices"}, sesame);
  EXPECT_EQ(narrow.status, 1);
  EXPECT_THAT(narrow.err, HasSubstr("invoices"));
  EXPECT_EQ(run_program({"post", "orders", "x"}, sesame).status, 1);
  auto listener = open({"listen", "orders", "--count", "1", "--json"}, {{"POSTBUS_TOKEN", "sesame"}});
  EXPECT_THAT(first_line(*listener, "orders"), HasSubstr("knock"));
  EXPECT_EQ(listener->wait(), 0);
  EXPECT_EQ(run_program({"status"}, {{"POSTBUS_URL", url}, {"POSTBUS_TOKEN", "two\nlines"}}).status, 2);
}

TEST_F(command_line_gateway, wrong_gateways_and_positions_are_told_apart) {
  EXPECT_EQ(run({"listen", "a", "--from", "yesterday"}).status, 2);
  EXPECT_EQ(run({"listen", "a\nb"}).status, 2);
  std::ofstream{folder.path() + "/other"} << "not a resume file\n";
  const auto foreign = run({"listen", "a", "--resume", folder.path() + "/other"});
  EXPECT_EQ(foreign.status, 1);
  EXPECT_THAT(foreign.err, HasSubstr("not a resume file"));
  EXPECT_EQ(run({"watch", "orders"}).status, 3);  // a gateway alone does not say where the database is
  const auto no_gateway = run_program({"--url", "http://127.0.0.1:1", "status"});
  EXPECT_EQ(no_gateway.status, 1);
  EXPECT_THAT(no_gateway.err, testing::AllOf(HasSubstr("cannot reach http://127.0.0.1:1"), HasSubstr("`postbus serve` starts one")));
  EXPECT_THAT(run_program({"--url", "https" + url.substr(4), "status"}).err, HasSubstr("is it http:// instead of https://?"));
}

TEST(command_line_embedded, commands_find_the_serve_of_a_data_folder) {
  const temporary_folder folder;
  const auto data = folder.path() + "/data";
  program gateway{{"serve", "--data", data, "--port", "0", "--threads", "1"}};
  ASSERT_TRUE(gateway.line(std::chrono::minutes{2})) << gateway.rest_of_errors();
  const auto run = [&](program::words words) {
    words.insert(words.begin(), {"--data", data});
    return run_program(std::move(words));
  };
  EXPECT_EQ(run({"status"}).status, 0);
  const auto doctor = run({"doctor", "--json"});
  EXPECT_EQ(doctor.status, 0) << doctor.out << doctor.err;
  EXPECT_EQ(text(boost::json::parse(doctor.out).at("tier"), "name"), "wal");
  EXPECT_EQ(run({"psql", "--", "-qc", "create table orders(id int primary key)"}).status, 0);
  EXPECT_EQ(run({"watch", "orders"}).status, 0);
  program listener{{"--data", data, "listen", "orders", "--count", "1", "--json", "--from", "beginning"}};
  EXPECT_EQ(run({"post", "orders", "hello"}).status, 0);
  EXPECT_THAT(listener.line().value_or(""), HasSubstr("hello"));
  EXPECT_EQ(listener.wait(), 0);
  gateway.signal(SIGTERM);
  EXPECT_EQ(gateway.wait(), 0);
  EXPECT_EQ(run({"status"}).status, 3);
}

TEST(command_line_status, says_that_the_lag_is_unknown_while_the_database_is_away) {
  testing_support::cluster own;
  const database db{own};
  program gateway{{"--db", db.url(), "serve", "--threads", "1", "--port", "0"}};
  const auto line = gateway.line();
  ASSERT_TRUE(line) << gateway.rest_of_errors();
  const program::environment here{{"POSTBUS_URL", line->substr(line->find("http"))}};
  const auto document = [&] { return boost::json::parse(run_program({"status", "--json"}, here).out); };
  const auto until = steady::now() + std::chrono::minutes{1};
  while (!document().at("ready").as_bool() && steady::now() < until) {
  }
  EXPECT_TRUE(document().at("lag_ms").is_number());
  EXPECT_TRUE(document().at("stream_silent_s").is_number());
  const auto scraped = [&] {
    test::raw_client c{static_cast<std::uint16_t>(std::stoi(line->substr(line->rfind(':') + 1)))};
    c.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return c.read_all();
  };
  EXPECT_THAT(scraped(), testing::ContainsRegex("\npostbus_lag_microseconds [0-9]+\n"));
  own.server().stop();
  auto now = document();
  while (!now.at("lag_ms").is_null() && steady::now() < until) now = document();
  EXPECT_TRUE(now.at("lag_ms").is_null());
  EXPECT_THAT(scraped(), HasSubstr("\npostbus_lag_microseconds NaN\n"));
  EXPECT_FALSE(now.at("ready").as_bool());
  const auto silent = now.at("stream_silent_s").to_number<double>();
  EXPECT_GT(document().at("stream_silent_s").to_number<double>(), silent);
  const auto shown = run_program({"status"}, here).out;
  EXPECT_THAT(shown, testing::ContainsRegex("lag +unknown"));
  EXPECT_THAT(shown, testing::ContainsRegex("stream silent +[0-9.]+ s"));
  gateway.signal(SIGTERM);
  EXPECT_EQ(gateway.wait(), 0);
}

TEST(command_line_doctor, names_what_is_wrong_and_the_fix) {
  testing_support::cluster without{{{"wal_level", "replica"}}};
  const database db{without};
  const auto shown = run_program({"--db", db.url(), "doctor"});
  EXPECT_THAT(shown.out, HasSubstr("alter system set wal_level"));
  EXPECT_THAT(shown.out, HasSubstr("NOTIFY"));
  const auto document = boost::json::parse(run_program({"--db", db.url(), "doctor", "--json"}).out);
  EXPECT_EQ(text(document.at("tier"), "name"), "notify");
  const database bare{database::with::nothing};
  const auto missing = run_program({"--db", bare.url(), "doctor"});
  EXPECT_THAT(missing.out, HasSubstr("setup"));
}

}  // namespace
}  // namespace postbus
