// One session over libpq and Asio: statements, pipelines, NOTIFY, COPY BOTH, and each way it can end.
#include "postgres/connection.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/proxy.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;
using testing_support::cluster;
using testing_support::run;

connect_options here() { return {.conninfo = cluster::shared().url()}; }

asio::awaitable<connection> open(connect_options options = here()) {
  auto opened = co_await connection::open(std::move(options));
  if (!opened) throw std::runtime_error{opened.error().text + ": " + opened.error().detail};
  co_return std::move(*opened);
}

TEST(connection, binds_parameters_and_reads_rows) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    const parameter p[] = {"héllo 🙂", std::nullopt, ""};
    const auto r = co_await c.query("select $1::text as greeting, $2::int, $3::text, current_setting('client_encoding')", p, 5s);
    EXPECT_TRUE(r);
    EXPECT_EQ(r->size(), 1u);
    EXPECT_EQ(r->columns(), 4u);
    EXPECT_EQ(r->name(0), "greeting");
    EXPECT_EQ(r->text(0, 0), "héllo 🙂");
    EXPECT_EQ(r->get(0, 1), std::nullopt);
    EXPECT_EQ(r->get(0, 2), "");
    EXPECT_EQ(r->text(0, 3), "UTF8");
    EXPECT_EQ(r->get(1, 0), std::nullopt) << "beyond the rows";
    const auto last = co_await c.execute("select 1; select 2", 5s);
    EXPECT_EQ(last->text(0, 0), "2");
    EXPECT_EQ(c.server_version() / 10000, cluster::shared().server().major());
  }());
}

TEST(connection, a_refused_statement_leaves_the_session_usable) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    auto r = co_await c.query("select 1/0", {}, 5s);
    EXPECT_EQ(r.error().code, errc::database);
    EXPECT_EQ(sqlstate(r.error()), "22012");
    EXPECT_EQ(r.error().text, "the database refused the statement") << "the server's words are private";
    EXPECT_EQ(r.error().detail, "[22012] division by zero");
    r = co_await c.execute("select 1; select nonsense; select 2", 5s);
    EXPECT_EQ(sqlstate(r.error()), "42703");
    const parameter cut[] = {std::string_view{"a\0b", 3}};
    r = co_await c.query("select $1::text", cut, 5s);
    EXPECT_EQ(r.error().code, errc::invalid_argument) << "and not 'a'";
    r = co_await c.query("select 7", {}, 5s);
    EXPECT_EQ(r->text(0, 0), "7");
  }());
}

TEST(connection, messages_of_our_own_sql_may_be_shown) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    const auto r = co_await c.execute("do $$begin raise exception 'too long' using errcode = 'PB001', hint = 'cut it'; end$$", 5s);
    EXPECT_EQ(r.error().text, "too long; cut it");
    EXPECT_EQ(sqlstate(r.error()), "PB001");
  }());
}

TEST(connection, a_deadline_closes_the_session) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    auto r = co_await c.query("select pg_sleep(60)", {}, 20ms);
    EXPECT_EQ(r.error().code, errc::timed_out);
    EXPECT_FALSE(c.is_open());
    r = co_await c.query("select 1", {}, 5s);
    EXPECT_EQ(r.error().code, errc::unavailable);
  }());
}

TEST(connection, pipelines_statements_in_transactions_of_their_own_or_shared) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    const auto made = co_await c.execute("create temp table t(a int unique deferrable initially deferred)", 5s);
    EXPECT_TRUE(made);
    const parameter one[] = {"1"};
    const connection::statement statements[] = {
        {"insert into t values ($1)", one},      // 0 its own transaction
        {"select 1/0", {}},                      // 1 refused
        {"insert into t values ($1)", one},      // 2 refused at commit
        {"select count(*) from t", {}},          // 3
        {"insert into t values (2)", {}, true},  // 4 undone with 5
        {"select 1/0", {}, true},                // 5 refused
        {"select 5", {}},                        // 6 not run
        {"insert into t values (3)", {}, true},  // 7 undone by its commit
        {"insert into t values ($1)", one},      // 8 refused at commit
        {"select count(*) from t", {}},          // 9
    };
    const auto all = co_await c.pipeline(statements, 5s);
    EXPECT_TRUE(all);
    const auto& r = *all;
    EXPECT_EQ(r.size(), std::size(statements));
    EXPECT_TRUE(r[0]);
    EXPECT_EQ(sqlstate(r[1].error()), "22012");
    EXPECT_EQ(sqlstate(r[2].error()), "23505");
    EXPECT_EQ(r[3]->text(0, 0), "1");
    EXPECT_EQ(sqlstate(r[5].error()), "22012");
    EXPECT_EQ(r[6].error().code, errc::conflict);
    EXPECT_EQ(sqlstate(r[8].error()), "23505");
    EXPECT_EQ(r[9]->text(0, 0), "1");
    const auto after = co_await c.query("select 3", {}, 5s);
    EXPECT_EQ(after->text(0, 0), "3");
  }());
}

TEST(connection, pipelines_more_than_both_sockets_hold_in_both_directions) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    const std::string big(2'000'000, 'x');
    const parameter p[] = {big};
    const std::vector<connection::statement> many(10, {"select $1::text", p});
    const auto echoed = co_await c.pipeline(many, 60s);
    EXPECT_TRUE(echoed);
    for (const auto& e : *echoed) EXPECT_EQ(e->text(0, 0).size(), big.size());
  }());
}

TEST(connection, hands_on_notifications) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    std::vector<std::string> got;
    c.on_notification([&](const notification& n) { got.push_back(std::string{n.channel} + "=" + std::string{n.payload}); });
    const auto listening = co_await c.execute("listen a; notify a, 'x'", 5s);
    EXPECT_TRUE(listening);
    auto waited = co_await c.wait_notifications(5ms);
    EXPECT_EQ(waited.error().code, errc::timed_out);
    EXPECT_TRUE(c.is_open());
    cluster::shared().psql("notify a, 'y'");
    while (got.size() < 2) {
      waited = co_await c.wait_notifications(5s);
      EXPECT_TRUE(waited);
    }
    EXPECT_THAT(got, testing::ElementsAre("a=x", "a=y"));
    c.wake();
    waited = co_await c.wait_notifications(60s);
    EXPECT_TRUE(waited) << "woken before it waited";
  }());
}

TEST(connection, tells_why_the_server_ended_it) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    cluster::shared().psql(fmt::format("select pg_terminate_backend({})", c.backend_pid()));
    auto waited = co_await c.wait_notifications(5s);
    while (waited) waited = co_await c.wait_notifications(5s);
    EXPECT_EQ(waited.error().code, errc::unavailable);
    EXPECT_EQ(sqlstate(waited.error()), "57P01");
    EXPECT_FALSE(c.is_open());

    auto busy = co_await open();
    cluster::shared().psql(fmt::format("select pg_terminate_backend({})", busy.backend_pid()));
    const auto r = co_await busy.query("select 1", {}, 5s);
    EXPECT_EQ(r.error().code, errc::unavailable);
    EXPECT_EQ(sqlstate(r.error()), "57P01");
  }());
}

struct copied {
  std::size_t rows{}, bytes{};
  std::string last;
  result<> ended{};
};

/** Takes a copy to its end, or until `enough` rows have come. */
asio::awaitable<copied> take_copy(connection& c, std::size_t enough = SIZE_MAX) {
  using what = connection::copied_row::what;
  copied all;
  while (all.rows < enough) {
    auto row = c.take_row();
    if (!row) {
      all.ended = row.error();
      co_return all;
    }
    if (row->is == what::end) break;
    if (row->is == what::none_yet) {
      all.ended = co_await c.wait_row(10s);
      if (!all.ended) co_return all;
      continue;
    }
    ++all.rows;
    all.bytes += row->text.size();
    all.last = row->text;
  }
  if (all.rows < enough) all.ended = co_await c.end_copy(10s);
  co_return all;
}

TEST(connection, copies_rows_out) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    EXPECT_TRUE(
        co_await c.copy_out("copy (select i, case when i % 2 = 0 then E'a\\tb' end from generate_series(1, 200000) i) to stdout", 5s));
    auto all = co_await take_copy(c);
    EXPECT_TRUE(all.ended) << all.ended.error().detail;
    EXPECT_EQ(all.rows, 200'000u);
    EXPECT_EQ(all.last, "200000\ta\\tb\n");
    EXPECT_TRUE(co_await c.copy_out("copy (select repeat('x', 20000000)) to stdout", 5s));
    all = co_await take_copy(c);
    EXPECT_EQ(all.bytes, 20'000'001u) << "one row of many reads";
    EXPECT_TRUE(co_await c.copy_out("copy (select 1 where false) to stdout", 5s));
    all = co_await take_copy(c);
    EXPECT_EQ(all.rows, 0u);
    EXPECT_TRUE(all.ended);
    EXPECT_EQ((co_await c.query("select 7", {}, 5s))->text(0, 0), "7");
  }());
}

TEST(connection, tells_how_a_copy_broke_off) {
  run([]() -> asio::awaitable<void> {
    auto c = co_await open();
    auto begun = co_await c.copy_out("copy nowhere to stdout", 5s);
    EXPECT_EQ(sqlstate(begun.error()), "42P01");
    EXPECT_TRUE(co_await c.copy_out("copy (select 1 / (100000 - i) from generate_series(1, 200000) i) to stdout", 5s));
    auto all = co_await take_copy(c);
    EXPECT_GT(all.rows, 0u);
    EXPECT_EQ(sqlstate(all.ended.error()), "22012") << "in the middle of the rows";
    EXPECT_EQ((co_await c.query("select 7", {}, 5s))->text(0, 0), "7") << "the session goes on";

    EXPECT_TRUE(co_await c.copy_out("copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout", 5s));
    all = co_await take_copy(c, 10);
    cluster::shared().psql(fmt::format("select pg_terminate_backend({})", c.backend_pid()));
    all = co_await take_copy(c);
    EXPECT_LT(all.rows, 999'990u);
    EXPECT_EQ(all.ended.error().code, errc::unavailable);
    EXPECT_FALSE(c.is_open());

    auto other = co_await open();
    EXPECT_TRUE(co_await other.copy_out("copy (select repeat('x', 20000) union all select pg_sleep(60)::text) to stdout", 5s));
    result<> waited;
    while (waited) {
      static_cast<void>(other.take_row());
      waited = co_await other.wait_row(20ms);
    }
    EXPECT_EQ(waited.error().code, errc::timed_out);
    EXPECT_FALSE(other.is_open());

    auto third = co_await open();
    EXPECT_EQ((co_await third.copy_out("select 1", 5s)).error().code, errc::internal);
    EXPECT_FALSE(third.is_open());
  }());
}

TEST(connection, streams_copy_both) {
  run([]() -> asio::awaitable<void> {
    testing_support::database db;
    db.psql("create publication p");
    auto options = here();
    options.conninfo = db.url();
    options.replication = true;
    auto c = co_await open(options);
    auto r = co_await c.execute("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput", 10s);
    EXPECT_TRUE(r);
    r = co_await c.execute("START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p', messages 'true')", 10s);
    EXPECT_TRUE(r);
    constexpr int messages = 20'000;
    db.psql(fmt::format("select count(pg_logical_emit_message(true, 'p', repeat('x', 200))) from generate_series(1, {})", messages));
    int got = 0;
    while (got < messages) {
      const auto waited = co_await c.wait_copy_data(10s);
      if (!waited) throw std::runtime_error{waited.error().text};
      for (;;) {
        const auto taken = c.take_copy_data();
        if (!taken) throw std::runtime_error{taken.error().text};
        if (!*taken) break;
        if ((**taken)[0] == 'w' && (**taken)[25] == 'M') ++got;
      }
    }
    const auto sent = co_await c.put_copy_data("r" + std::string(33, '\0'), 5s);
    EXPECT_TRUE(sent);
    db.psql(fmt::format("select pg_terminate_backend({})", c.backend_pid()));
    result<> ended;
    while (ended) {
      const auto taken = c.take_copy_data();
      if (!taken)
        ended = taken.error();
      else if (!*taken)
        ended = co_await c.wait_copy_data(5s);
    }
    EXPECT_EQ(ended.error().code, errc::unavailable);
    EXPECT_EQ(sqlstate(ended.error()), "57P01");
  }());
}

TEST(connection, says_how_to_mend_a_session_it_could_not_open) {
  run([]() -> asio::awaitable<void> {
    const auto nobody = co_await connection::open({.conninfo = "postgresql://u@127.0.0.1:1/x"});
    EXPECT_EQ(nobody.error().code, errc::unavailable);
    EXPECT_THAT(nobody.error().detail, testing::HasSubstr("Connection refused"));
    const auto malformed = co_await connection::open({.conninfo = "postgresql://u:hush%zz@h/x"});
    EXPECT_EQ(malformed.error().code, errc::invalid_argument);
    EXPECT_THAT(malformed.error().text + malformed.error().detail, testing::Not(testing::HasSubstr("hush")));
    const auto no_password = co_await connection::open({.conninfo = cluster::shared().url_as("postgres", "", "postbus")});
    EXPECT_THAT(no_password.error().text, testing::HasSubstr("wants a password"));
  }());
}

TEST(connection, finds_a_host_by_name) {
  run([]() -> asio::awaitable<void> {
    auto& server = cluster::shared().server();
    auto c = co_await open({.conninfo = fmt::format("postgresql://postgres:{}@localhost:{}/postbus", server.password(), server.port())});
    const auto works = co_await c.query("select 1", {}, 5s);
    EXPECT_TRUE(works);
    const auto unknown = co_await connection::open({.conninfo = "postgresql://u@no-such-host.invalid/d"});
    EXPECT_FALSE(unknown);
    if (!unknown) EXPECT_THAT(unknown.error().text, testing::HasSubstr("host's name"));
  }());
}

TEST(connection, gives_up_on_a_server_that_does_not_answer_the_handshake) {
  asio::io_context loop;
  testing_support::proxy network{loop.get_executor(), cluster::shared().server().port()};
  run(loop, [](std::uint16_t port, testing_support::proxy& p) -> asio::awaitable<void> {
    auto& server = cluster::shared().server();
    const auto url = fmt::format("postgresql://postgres:{}@127.0.0.1:{}/postbus", server.password(), port);
    const auto through = co_await connection::open({.conninfo = url});
    EXPECT_TRUE(through);
    p.freeze_new();
    const auto opened = co_await connection::open({.conninfo = url, .deadline = 50ms});
    EXPECT_EQ(opened.error().code, errc::timed_out);
  }(network.port(), network));
}

TEST(connection, reads_everything_through_tls) {
  testing_support::temporary_folder keys;
  const auto key = keys.path() + "/key.pem";
  const auto certificate = keys.path() + "/certificate.pem";
  const auto make = fmt::format(
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test -keyout {} -out {} "
      "2>/dev/null && chmod 600 {} && {{ [ $(id -u) != 0 ] || chown postgres {}; }}",
      key, certificate, key, key);
  ASSERT_EQ(std::system(make.c_str()), 0);
  cluster c{{{"ssl", "on"}, {"ssl_cert_file", certificate}, {"ssl_key_file", key}}};
  run([](cluster& on) -> asio::awaitable<void> {
    const auto url = on.url_as("postgres", on.server().password(), "postbus") + "?sslmode=require";
    auto s = co_await open({.conninfo = url});
    const auto in_use = co_await s.query("select ssl from pg_stat_ssl where pid = pg_backend_pid()", {}, 5s);
    EXPECT_EQ(in_use->text(0, 0), "t");
    for (int size = 1'000; size < 300'000; size = size * 9 / 8 + 1) {
      const std::string text(static_cast<std::size_t>(size), 'x');
      const parameter p[] = {text};
      const auto echoed = co_await s.query("select $1::text", p, 10s);
      if (!echoed) throw std::runtime_error{fmt::format("{} bytes: {}", size, echoed.error().text)};
      EXPECT_EQ(echoed->text(0, 0).size(), text.size());
    }
    on.psql("create publication p");
    auto stream = co_await open({.conninfo = url, .replication = true});
    auto started = co_await stream.execute("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput", 10s);
    started =
        co_await stream.execute("START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p', messages 'true')", 10s);
    EXPECT_TRUE(started);
    on.psql("select pg_logical_emit_message(true, 'p', repeat('x', n * 37)) from generate_series(1, 1000) n");
    int got = 0;
    while (got < 1000) {
      const auto waited = co_await stream.wait_copy_data(10s);
      if (!waited) throw std::runtime_error{fmt::format("after {}: {}", got, waited.error().text)};
      for (auto taken = stream.take_copy_data(); taken && *taken; taken = stream.take_copy_data())
        if ((**taken)[0] == 'w' && (**taken)[25] == 'M') ++got;
    }
  }(c));
}

}  // namespace
}  // namespace postbus::postgres
