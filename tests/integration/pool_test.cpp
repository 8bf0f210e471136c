// Sessions lent from a pool: lazily opened, first come first served, bounded, and never lent again when broken.
#include "postgres/pool.hpp"

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
using testing_support::until;

pool_options here(std::size_t sessions, std::size_t waiters = 100) {
  return {
      .session = {.conninfo = cluster::shared().url(), .application_name = "postbus pool test"}, .sessions = sessions, .waiters = waiters};
}
/** Sessions of this test's pools, without one that still sleeps for a client that has gone. */
std::string backends() {
  return cluster::shared().psql("select count(*) from pg_stat_activity where application_name = 'postbus pool test' and state = 'idle'");
}

asio::awaitable<pool::lease> take(pool& from) {
  auto taken = co_await from.acquire(10s);
  if (!taken) throw std::runtime_error{taken.error().text};
  co_return std::move(*taken);
}

TEST(pool, opens_sessions_when_first_needed_and_uses_them_again) {
  run([]() -> asio::awaitable<void> {
    pool p{co_await asio::this_coro::executor, here(3)};
    EXPECT_EQ(backends(), "0");
    int pid = 0;
    for (int i = 0; i < 5; ++i) {
      const auto one = co_await take(p);
      if (i > 0) EXPECT_EQ(one->backend_pid(), pid);
      pid = one->backend_pid();
    }
    const auto a = co_await take(p);
    const auto b = co_await take(p);
    EXPECT_EQ(backends(), "2");
    EXPECT_EQ(p.sessions(), 2u);
  }());
}

TEST(pool, serves_waiters_first_come_first_served) {
  run([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    pool p{executor, here(1)};
    std::vector<int> order;
    {
      const auto held = co_await take(p);
      for (int i = 0; i < 5; ++i) {
        asio::co_spawn(executor, p.acquire(10s), [&order, i](std::exception_ptr, result<pool::lease> r) {
          if (r) order.push_back(i);
        });
      }
      co_await until([turns = 0]() mutable { return ++turns == 5; });
      EXPECT_TRUE(order.empty());
    }
    co_await until([&] { return order.size() == 5; });
    EXPECT_THAT(order, testing::ElementsAre(0, 1, 2, 3, 4));
    EXPECT_EQ(p.sessions(), 1u);
  }());
}

TEST(pool, bounds_its_waiters_in_number_and_time) {
  run([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    pool p{executor, here(1, 1)};
    const auto held = co_await take(p);
    std::optional<error> waited;
    asio::co_spawn(executor, p.acquire(20ms), [&](std::exception_ptr, result<pool::lease> r) { waited = r.error(); });
    co_await until([turns = 0]() mutable { return ++turns == 2; });
    const auto refused = co_await p.acquire(10s);
    EXPECT_EQ(refused.error().code, errc::too_many);
    co_await until([&] { return waited.has_value(); });
    EXPECT_EQ(waited->code, errc::timed_out);
  }());
}

TEST(pool, discards_a_session_that_broke_or_was_ended_while_idle) {
  run([]() -> asio::awaitable<void> {
    pool p{co_await asio::this_coro::executor, here(1)};
    int first = 0;
    {
      const auto one = co_await take(p);
      first = one->backend_pid();
      const auto late = co_await one->query("select pg_sleep(60)", {}, 10ms);
      EXPECT_EQ(late.error().code, errc::timed_out);
    }
    EXPECT_EQ(p.sessions(), 0u);
    int second = 0;
    {
      const auto one = co_await take(p);
      second = one->backend_pid();
      EXPECT_NE(second, first);
    }
    cluster::shared().psql(fmt::format("select pg_terminate_backend({}, 10000)", second));
    const auto one = co_await take(p);
    const auto works = co_await one->query("select 1", {}, 5s);
    EXPECT_TRUE(works) << "the ended session was found out before it was lent";
  }());
}

TEST(pool, a_broken_session_makes_room_for_a_waiter) {
  run([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    pool p{executor, here(1)};
    bool served = false;
    {
      const auto held = co_await take(p);
      asio::co_spawn(executor, p.acquire(10s), [&](std::exception_ptr, result<pool::lease> r) { served = r && (*r)->is_open(); });
      co_await until([turns = 0]() mutable { return ++turns == 2; });
      held->close();
    }
    co_await until([&] { return served; });
  }());
}

TEST(pool, fails_at_once_while_sessions_cannot_be_opened_and_comes_back) {
  asio::io_context loop;
  auto& server = cluster::shared().server();
  testing_support::proxy network{loop.get_executor(), server.port()};
  network.cut_at_reply(1);
  run(loop, [](std::string url, testing_support::proxy& net) -> asio::awaitable<void> {
    pool p{co_await asio::this_coro::executor, {.session = {.conninfo = url}, .sessions = 2}};
    auto taken = co_await p.acquire(10s);
    EXPECT_FALSE(taken);
    if (!taken) EXPECT_EQ(taken.error().code, errc::unavailable);
    taken = co_await p.acquire(10s);
    EXPECT_FALSE(taken);
    EXPECT_EQ(net.connections(), 1u) << "no other attempt within the back-off";
    EXPECT_EQ(p.sessions(), 0u);
    while (!taken) {
      co_await until([turns = 0]() mutable { return ++turns == 2; });
      taken = co_await p.acquire(10s);
    }
    EXPECT_EQ(net.connections(), 2u);
  }(fmt::format("postgresql://postgres:{}@127.0.0.1:{}/postbus", server.password(), network.port()), network));
}

TEST(pool, closing_fails_who_waits_and_outlives_its_leases) {
  run([]() -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    std::optional<error> waited;
    auto p = std::make_unique<pool>(executor, here(1));
    {
      const auto held = co_await take(*p);
      asio::co_spawn(executor, p->acquire(10s), [&](std::exception_ptr, result<pool::lease> r) { waited = r.error(); });
      co_await until([turns = 0]() mutable { return ++turns == 2; });
      p.reset();
      co_await until([&] { return waited.has_value(); });
      EXPECT_EQ(waited->code, errc::unavailable);
      const auto still = co_await held->query("select 1", {}, 5s);
      EXPECT_TRUE(still);
    }
    co_await until([] { return backends() == "0"; });
  }());
}

}  // namespace
}  // namespace postbus::postgres
