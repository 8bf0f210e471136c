#include "support/proxy.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <vector>

namespace postbus::testing_support {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

constexpr auto done = asio::as_tuple(asio::use_awaitable);

struct pair {
  explicit pair(tcp::socket accepted) : client{std::move(accepted)}, server{client.get_executor()} {}
  void close() {
    boost::system::error_code ignored;
    client.close(ignored);
    server.close(ignored);
  }
  tcp::socket client, server;
  bool frozen{};
};

}  // namespace

struct proxy::impl {
  impl(asio::any_io_executor executor, std::uint16_t port)
      : acceptor{executor, {asio::ip::address_v4::loopback(), 0}}, server{asio::ip::address_v4::loopback(), port} {}

  tcp::acceptor acceptor;
  tcp::endpoint server;
  std::vector<std::shared_ptr<pair>> open;
  std::size_t replies{}, cut{}, connections{};
  bool freezing{};

  static asio::awaitable<void> relay(std::shared_ptr<impl> self, std::shared_ptr<pair> both, bool from_server) {
    auto& in = from_server ? both->server : both->client;
    auto& out = from_server ? both->client : both->server;
    std::array<char, 16384> bytes{};
    for (;;) {
      const auto [failed, size] = co_await in.async_read_some(asio::buffer(bytes), done);
      if (both->frozen) co_return;  // the sockets stay open: nobody is told
      if (failed || (from_server && ++self->replies == self->cut)) break;
      const auto [lost, written] = co_await asio::async_write(out, asio::buffer(bytes.data(), size), done);
      if (lost) break;
    }
    both->close();
  }

  static asio::awaitable<void> serve(std::shared_ptr<impl> self) {
    for (;;) {
      auto [failed, accepted] = co_await self->acceptor.async_accept(done);
      if (failed) co_return;
      ++self->connections;
      auto both = std::make_shared<pair>(std::move(accepted));
      const auto [refused] = co_await both->server.async_connect(self->server, done);
      if (refused) continue;
      both->frozen = self->freezing;
      self->open.push_back(both);
      for (const bool from_server : {true, false})
        asio::co_spawn(self->acceptor.get_executor(), relay(self, both, from_server), asio::detached);
    }
  }
};

proxy::proxy(asio::any_io_executor executor, std::uint16_t server) : impl_{std::make_shared<impl>(executor, server)} {
  asio::co_spawn(executor, impl::serve(impl_), asio::detached);
}
proxy::~proxy() {
  impl_->acceptor.close();
  for (auto& both : impl_->open) both->close();
}
std::uint16_t proxy::port() const { return impl_->acceptor.local_endpoint().port(); }
void proxy::freeze() {
  for (auto& both : impl_->open) both->frozen = true;
}
void proxy::freeze_new() { impl_->freezing = true; }
void proxy::cut_at_reply(std::size_t n) {
  impl_->replies = 0;
  impl_->cut = n;
}
std::size_t proxy::replies() const { return impl_->replies; }
std::size_t proxy::connections() const { return impl_->connections; }

}  // namespace postbus::testing_support
