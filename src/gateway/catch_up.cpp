#include "gateway/catch_up.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "bus/channel.hpp"
#include "gateway/loop.hpp"

namespace postbus::gateway {

namespace asio = boost::asio;

asio::awaitable<void> room_signal::wait() { co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable)); }

asio::awaitable<void> catch_up(loop& home, std::string channel, bus::start from, catch_up_steps steps) {
  for (;;) {
    const auto page = co_await home.shared().behind.read_stream(channel, from, steps.most);
    if (!steps.alive()) co_return;
    if (!page && page.error().code == errc::not_found) co_return steps.not_kept();
    if (!page) co_return steps.failed(page.error());
    while (!steps.has_room()) {
      co_await steps.room->wait();
      if (!steps.alive()) co_return;
    }
    steps.take(*page);
    if (!steps.alive()) co_return;
    from = page->upto;
    if (page->end && steps.join(page->upto)) co_return;
  }
}

bus::start start_of(const bus::progress& given) { return given.seq != 0 ? bus::start{given.at} : given.from; }

bool may_be_kept(std::string_view channel, const bus::progress& from, const bus::replay& given) {
  const auto start = start_of(from);
  if (bus::is_reserved(channel) || std::holds_alternative<bus::from_now>(start)) return false;
  return std::holds_alternative<bus::from_beginning>(start) || (!given.whole && std::get<bus::position>(start).epoch == given.at.epoch);
}

}  // namespace postbus::gateway
