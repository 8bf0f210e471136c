#include "postbus/client.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "support/cluster.hpp"
#include "support/program.hpp"
#include "support/proxy.hpp"

// The public client against a real gateway, over TLS.

namespace postbus {
namespace {

using testing::HasSubstr;
using testing_support::database;
using testing_support::program;
using testing_support::temporary_folder;
using namespace std::chrono_literals;

class client_library : public testing::Test {
protected:
  void SetUp() override {
    const auto command = fmt::format(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {0}/key.pem -out {0}/cert.pem 2>/dev/null",
        folder.path());
    ASSERT_EQ(std::system(command.c_str()), 0);
    gateway = std::make_unique<program>(program::words{"--db", db.url(), "serve", "--threads", "1", "--port", "0", "--tls-cert",
                                                       folder.path() + "/cert.pem", "--tls-key", folder.path() + "/key.pem"});
    const auto line = gateway->line();
    ASSERT_TRUE(line) << gateway->rest_of_errors();
    url = line->substr(line->find("https://"));
  }
  client connect() const { return client{url, {.ca_file = folder.path() + "/cert.pem"}}; }

  database db;
  temporary_folder folder;
  std::unique_ptr<program> gateway;
  std::string url;
};

TEST_F(client_library, posts_and_listens_over_tls) {
  auto to = connect();
  auto events = to.listen({"a", "b"});
  EXPECT_NE(to.post("a", "hello ü"), "");
  to.post_json("b", R"({"n":12345678901234567890.5})");
  const auto first = events.next(30s), second = events.next(30s);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->payload, "hello ü");
  EXPECT_TRUE(second->is_json);
  EXPECT_THAT(second->payload, HasSubstr("12345678901234567890.5"));
  EXPECT_THAT(to.status(), HasSubstr("\"ready\":true"));
  auto again = to.listen({"a", "b"}, {.after = first->position});
  EXPECT_EQ(again.next(30s)->payload, second->payload);
  EXPECT_FALSE(again.next(50ms));
}

TEST_F(client_library, a_large_message_passes_both_ways) {
  auto to = connect();
  auto events = to.listen({"a"});
  std::string large(3u << 20, 'x');
  large[100] = '\n';
  to.post("a", large);
  const auto e = events.next(60s);
  ASSERT_TRUE(e);
  EXPECT_TRUE(e->payload == large);
}

TEST_F(client_library, the_certificate_must_be_trusted_and_name_the_host) {
  client stranger{url};
  try {
    stranger.status();
    FAIL() << "an unknown certificate was trusted";
  } catch (const request_error& refused) {
    EXPECT_THAT(refused.what(), HasSubstr("not trusted"));
  }
  const auto port = url.substr(url.rfind(':'));
  client other{"https://127.0.0.2" + port, {.ca_file = folder.path() + "/cert.pem"}},
      named{"https://localhost" + port, {.ca_file = folder.path() + "/cert.pem"}};
  EXPECT_THROW(other.status(), request_error);  // nothing listens there, or its certificate names another
  EXPECT_NE(named.status(), "");
  EXPECT_THROW(client{"localhost" + port}, std::invalid_argument);
}

TEST_F(client_library, a_subscription_calls_its_handler_and_rethrows_what_it_throws) {
  auto to = connect();
  std::mutex guard;
  std::condition_variable changed;
  std::vector<std::string> seen;
  auto subscription = to.listen({"a"}, [&](const event& e) {
    const std::lock_guard lock{guard};
    seen.push_back(e.payload);
    changed.notify_all();
    if (e.payload == "break") throw std::runtime_error{"on purpose"};
  });
  to.post("a", "1");
  to.post("a", "2");
  {
    std::unique_lock lock{guard};
    ASSERT_TRUE(changed.wait_for(lock, 30s, [&] { return seen.size() == 2; }));
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"1", "2"}));
  to.post("a", "break");
  EXPECT_THROW(subscription.wait(), std::runtime_error);

  auto quiet = to.listen({"a"}, [](const event&) {});
  quiet.stop();
  quiet.wait();
}

TEST_F(client_library, a_full_queue_holds_back_the_gateway_and_loses_nothing) {
  auto to = connect();
  auto events = to.listen({"a"}, {.queue_events = 4});
  db.psql("select postbus.post('a', repeat('x', 2000) || n) from generate_series(1, 3000) n");
  for (int n = 1; n <= 3000; ++n) {
    const auto e = events.next(30s);
    ASSERT_TRUE(e) << n;
    ASSERT_FALSE(e->is_notice()) << e->payload;
    ASSERT_THAT(e->payload, testing::EndsWith("x" + std::to_string(n)));
  }
}

/** Two streams, each with far more messages than a listener's queue takes. */
constexpr int backlog = 6000;
void fill_streams(database& db) {
  db.psql("select postbus.create_stream(c) from unnest('{x,y}'::text[]) c");
  db.psql(fmt::format("select postbus.post(c, n::text) from unnest('{{x,y}}'::text[]) c, generate_series(1, {}) n", backlog));
}

using counts = std::map<std::string, int>;
/** Takes events, numbered in each channel, until it has `all`; `done` is what was taken before. */
void take(listener& from, counts done, const counts& all) {
  while (done != all) {
    const auto e = from.next(60s);
    ASSERT_TRUE(e) << "after " << testing::PrintToString(done);
    ASSERT_EQ(e->payload, std::to_string(++done[e->channel])) << e->channel;
  }
}

/** The first event of x is taken and remembered in `file`: what follows it comes from memory, at once when x is asked for. */
void begin_with_x(client& to, const std::string& file) {
  auto first = to.listen({"x"}, {.after = "beginning", .resume_file = file});
  ASSERT_TRUE(first.next(60s));
  first.save();
}

TEST_F(client_library, channels_whose_backlogs_are_longer_than_the_queue_begin_together) {
  fill_streams(db);
  auto to = connect();
  const auto file = folder.path() + "/resume";
  begin_with_x(to, file);
  // y is read from its tables, and confirmed behind all of x.
  auto from = to.listen({"x", "y"}, {.after = "beginning", .resume_file = file, .queue_events = 16});
  take(from, {{"x", 1}}, {{"x", backlog}, {"y", backlog}});
}

TEST_F(client_library, a_channel_that_begins_now_is_whole_beside_the_backlogs_of_others) {
  fill_streams(db);
  auto to = connect();
  const auto file = folder.path() + "/resume";
  counts done;
  {
    auto first = to.listen({"x", "y"}, {.after = "beginning", .resume_file = file});
    while (done.size() < 2) {
      const auto e = first.next(60s);
      ASSERT_TRUE(e);
      ++done[e->channel];
    }
    first.save();
  }
  auto from = to.listen({"x", "y", "new"}, {.resume_file = file, .queue_events = 16});
  to.post("new", "1");
  take(from, done, {{"x", backlog}, {"y", backlog}, {"new", 1}});
}

TEST_F(client_library, a_channel_that_is_refused_behind_the_backlog_of_another_ends_it_when_that_is_taken) {
  fill_streams(db);
  auto to = connect();
  const auto file = folder.path() + "/resume";
  begin_with_x(to, file);
  const std::vector<std::string> channels{"x", "table:public.nobody_watches"};
  const auto is_refused = [](const request_error& why) {
    return why.code() == "not_watched" && std::string_view{why.what()}.contains("nobody_watches");
  };
  auto from = to.listen(channels, {.after = "beginning", .resume_file = file, .queue_events = 4});
  int taken = 0;
  try {
    while (from.next(60s)) ++taken;
    FAIL() << "stopped without a reason after " << taken;
  } catch (const request_error& why) {
    EXPECT_TRUE(is_refused(why)) << why.what();
  }
  EXPECT_GE(taken, 4);
  try {
    to.listen(channels, {.resume_file = file, .queue_events = 4});
    FAIL() << "nobody knows whether the table's channel has begun";
  } catch (const request_error& why) {
    EXPECT_TRUE(is_refused(why)) << why.what();
  }
}

TEST_F(client_library, a_new_consumer_whose_connection_breaks_before_its_first_event_is_told_of_no_gap) {
  auto to = connect();
  db.psql("select postbus.create_stream('s', max_count => 16)");
  auto live = to.listen({"s"});
  const auto oldest = [&] { return db.psql("select oldest from postbus.streams where channel = 's'"); };
  int posted = 0;
  for (std::string first; posted < 40 || first.empty() || oldest() == first;) {  // until some are no longer kept
    ASSERT_LT(posted, 400);
    db.psql(fmt::format("select postbus.post('s', repeat('x', 300000) || {})", ++posted));
    ASSERT_TRUE(live.next(30s));
    if (first.empty()) first = oldest();
    db.psql("select postbus.maintain_streams()");
  }
  boost::asio::io_context loop;
  testing_support::proxy between{loop.get_executor(), static_cast<std::uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)))};
  between.cut_at_reply(10);  // within the first event, behind the confirmation
  std::thread relay{[&] { loop.run(); }};
  {
    client through{fmt::format("https://127.0.0.1:{}", between.port()), {.ca_file = folder.path() + "/cert.pem"}};
    auto from = through.listen({"s"}, {.consumer = "c"});
    const auto first = from.next(30s);
    EXPECT_GE(between.connections(), 2u);
    EXPECT_TRUE(first && first->kind == event_kind::message) << (first ? first->payload.substr(0, 200) : "");
  }
  loop.stop();
  relay.join();
}

TEST_F(client_library, a_stopped_listener_gives_out_what_it_has_received_and_the_next_run_goes_on_there) {
  auto to = connect();
  const auto file = folder.path() + "/resume";
  constexpr int all = 100;
  int seen = 0;
  {
    auto events = to.listen({"a"}, {.resume_file = file, .queue_events = 8});
    db.psql(fmt::format("select postbus.post('a', n::text) from generate_series(1, {}) n", all));
    ASSERT_TRUE(events.next(30s));
    ASSERT_TRUE(events.next(30s));
    const auto until = std::chrono::steady_clock::now() + 30s;
    while (!events.ready() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    events.stop();
    for (seen = 2; const auto e = events.next(0ms);) EXPECT_EQ(e->payload, std::to_string(++seen));
  }
  EXPECT_GT(seen, 2);
  auto rest = to.listen({"a"}, {.resume_file = file});
  while (seen < all) {
    const auto e = rest.next(30s);
    ASSERT_TRUE(e);
    EXPECT_EQ(e->payload, std::to_string(++seen));
  }
}

TEST_F(client_library, stop_ends_a_waiting_next_from_another_thread) {
  auto events = connect().listen({"a"});
  std::thread stopper{[&] { events.stop(); }};
  EXPECT_FALSE(events.next(1h));
  stopper.join();
  EXPECT_TRUE(events.stopped());
}

}  // namespace
}  // namespace postbus
