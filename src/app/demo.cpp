// The demo's driver. Its SQL stands in examples/ and is embedded from there, so what a newcomer reads and runs is what
// the demo does. One turn: a step in the shop, and every few turns A asks B for a job or B answers.
#include "app/demo.hpp"

#include <fmt/format.h>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <array>
#include <random>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "embedded_examples.hpp"
#include "postgres/backoff.hpp"
#include "postgres/connection.hpp"

namespace postbus::app {
namespace {

namespace asio = boost::asio;
using postgres::connection;

constexpr auto deadline = std::chrono::seconds{10};
constexpr auto turn_length = std::chrono::milliseconds{300};
constexpr unsigned first_job = 1001;
constexpr unsigned turns_per_job = 5;  ///< asked in the first of them, answered in the third

asio::awaitable<void> pause(steady::duration length) {
  asio::steady_timer timer{co_await asio::this_coro::executor, length};
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<result<>> run(connection& session, std::string_view file) {
  const auto answer = co_await session.execute(embedded_examples::find(file), deadline);
  if (!answer) co_return answer.error();
  co_return result<>{};
}

asio::awaitable<result<>> post_job(connection& session, std::string_view file, unsigned job) {
  const auto number = fmt::to_string(job);
  const std::array<postgres::parameter, 1> parameters{number};
  const auto answer = co_await session.query(embedded_examples::find(file), parameters, deadline);
  if (!answer) co_return answer.error();
  co_return result<>{};
}

struct story {
  bool shop{true};  ///< the table is the example's and watched
  unsigned turn{};
  unsigned job{first_job};
};

asio::awaitable<result<>> play_turn(connection& session, story& now) {
  if (now.shop) {
    const auto stepped = co_await run(session, "orders/step.sql");
    if (!stepped) co_return stepped.error();
  }
  const auto phase = now.turn++ % turns_per_job;
  result<> posted;
  if (phase == 0) posted = co_await post_job(session, "ping-pong/ask.sql", now.job);
  if (phase == 2) posted = co_await post_job(session, "ping-pong/answer.sql", now.job++);
  co_return posted;
}

/** Plays until the session fails; says why. `now` lives through reconnects. */
asio::awaitable<error> play(connection& session, story& now) {
  const auto prepared = co_await run(session, "orders/orders.sql");
  now.shop = prepared.has_value();
  if (!prepared) {
    if (prepared.error().code != errc::database && prepared.error().code != errc::unsupported) co_return prepared.error();
    log::warning("demo", "no orders story: {}", prepared.error());
  }
  for (;;) {
    const auto played = co_await play_turn(session, now);
    if (!played) co_return played.error();
    co_await pause(turn_length);
  }
}

}  // namespace

asio::awaitable<void> demo(demo_options options) {
  story now;
  postgres::backoff wait{std::random_device{}()};
  for (;;) {
    postgres::connect_options how{.conninfo = options.conninfo, .application_name = "postbus demo", .own_search_path = true};
    auto session = co_await connection::open(std::move(how));
    if (session) {
      wait.succeeded();
      const auto why = co_await play(*session, now);
      log::warning("demo", "interrupted: {}", why);
    } else {
      log::warning("demo", "{}", session.error());
    }
    co_await pause(wait.next());
  }
}

}  // namespace postbus::app
