#include "postgres/look_up.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <memory>
#include <utility>

#include "postgres/suspend.hpp"

namespace postbus::postgres {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using addresses = result<std::vector<std::string>>;

/** A lookup and its deadline; the first to end resumes the coroutine. */
struct race {
  explicit race(const asio::any_io_executor& executor) : resolver{executor}, timer{executor} {}
  void end(addresses outcome) {
    if (!resume) return;
    std::exchange(resume, nullptr)(std::move(outcome));
    timer.cancel();
    resolver.cancel();
  }
  asio::ip::tcp::resolver resolver;
  asio::steady_timer timer;
  resumer<addresses> resume;
};

}  // namespace

asio::awaitable<addresses> look_up(std::string host, steady::time_point deadline) {
  const auto executor = co_await asio::this_coro::executor;
  auto both = std::make_shared<race>(executor);
  co_return co_await suspend<addresses>([both, host, deadline](resumer<addresses> resume) {
    both->resume = std::move(resume);
    both->timer.expires_at(deadline);
    both->timer.async_wait([both](error_code cancelled) {
      if (!cancelled) both->end(error{errc::timed_out, "the database host's name was not resolved in time"});
    });
    both->resolver.async_resolve(host, "", [both, host](error_code failed, const asio::ip::tcp::resolver::results_type& found) {
      if (failed)
        return both->end(error{errc::unavailable, "the database host's name is not known: check the URL", host + ": " + failed.message()});
      std::vector<std::string> list;
      for (const auto& one : found) {
        auto text = one.endpoint().address().to_string();
        if (std::ranges::find(list, text) == list.end()) list.push_back(std::move(text));
      }
      both->end(std::move(list));
    });
  });
}

}  // namespace postbus::postgres
