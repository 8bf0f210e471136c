#pragma once
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <functional>
#include <utility>

namespace postbus::postgres {

/** Lets a suspended coroutine go on with an outcome, in a later turn of its executor. Called at most once, on that executor. */
template <class T>
using resumer = std::move_only_function<void(T)>;

/** Suspends the calling coroutine; `keep` gets its resumer and must keep it until the outcome is there. */
template <class T, class Keep>
boost::asio::awaitable<T> suspend(Keep keep) {
  namespace asio = boost::asio;
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, void(T)>(
      [](auto handler, Keep&& take) {
        auto executor = asio::get_associated_executor(handler);
        take(resumer<T>{[executor, work = asio::make_work_guard(executor), h = std::move(handler)](T outcome) mutable {
          asio::post(executor, [h = std::move(h), o = std::move(outcome)]() mutable { std::move(h)(std::move(o)); });
        }});
      },
      asio::use_awaitable, std::move(keep));
}

}  // namespace postbus::postgres
