#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <chrono>
#include <exception>
#include <functional>
#include <stdexcept>

namespace postbus::testing_support {

namespace asio = boost::asio;

/** Runs a coroutine on `loop` until it has ended, with whatever else lives there; rethrows what it throws. */
inline void run(asio::io_context& loop, asio::awaitable<void> work) {
  std::exception_ptr thrown;
  bool done = false;
  asio::co_spawn(loop, std::move(work), [&](std::exception_ptr e) {
    thrown = e;
    done = true;
  });
  loop.restart();
  while (!done && loop.run_one() > 0) {
  }
  if (thrown) std::rethrow_exception(thrown);
  if (!done) throw std::logic_error{"the coroutine waits for nothing"};
}

inline void run(asio::awaitable<void> work) {
  asio::io_context loop;
  run(loop, std::move(work));
}

/** Returns once `holds()`; throws after half a minute. */
inline asio::awaitable<void> until(std::function<bool()> holds) {
  using namespace std::chrono_literals;
  const auto limit = std::chrono::steady_clock::now() + 30s;
  asio::steady_timer timer{co_await asio::this_coro::executor};
  while (!holds()) {
    if (std::chrono::steady_clock::now() > limit) throw std::runtime_error{"what was waited for did not happen"};
    timer.expires_after(2ms);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace postbus::testing_support
