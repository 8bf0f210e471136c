// Our gateway and hub without a database, for the fan-out bench: a post becomes an event at once. One loop thread, a free
// port, which is printed. What a rival is given (one process, one core, no TLS), this is given.
#include <fmt/format.h>

#include <cstdio>

#include "base/log.hpp"
#include "bus/hub.hpp"
#include "gateway/gateway.hpp"

namespace {

using namespace postbus;
namespace asio = boost::asio;

/** Stands where the database is in `serve`. Each post is a commit of its own; used on the gateway's one thread. */
class memory final : public gateway::backend {
public:
  explicit memory(bus::hub& hub) : hub_{hub} {}

  asio::awaitable<result<bus::position>> post(std::string channel, bus::payload_form form, std::string payload) override {
    at_.lsn += 64;
    auto batch = std::make_shared<bus::batch>();
    batch->add(channel, bus::kind::message, form, payload, at_, now_micros());
    hub_.publish(std::move(batch));
    co_return at_;
  }
  asio::awaitable<result<bus::position>> listen(std::string) override { co_return at_; }
  void unlisten(std::string) override {}
  asio::awaitable<result<std::string>> feed_channel(std::string) override {
    co_return error{errc::not_watched, "there are no tables without a database"};
  }
  asio::awaitable<result<std::shared_ptr<const feeds::view>>> open_view(std::string, feeds::view_request) override {
    co_return error{errc::unsupported, "there are no tables without a database"};
  }
  bool ready() const override { return true; }
  boost::json::object status() const override { return {}; }

private:
  bus::hub& hub_;
  bus::position at_{.epoch = 1, .lsn = 64, .index = 0};
};

}  // namespace

int main() {
  log::configure(log::level::warning, false);
  bus::hub hub;
  hub.begin({.epoch = 1, .lsn = 64, .index = 0});
  memory behind{hub};
  gateway::gateway_options options;
  options.port = 0;
  options.threads = 1;
  options.version = "bench";
  gateway::server front{hub, behind, std::move(options)};
  if (const auto listening = front.listen(); !listening) {
    fmt::print(stderr, "bench_gateway_memory: {}\n", listening.error().text);
    return 1;
  }
  fmt::print("{}\n", front.port());
  std::fflush(stdout);
  front.run();
  return 0;
}
