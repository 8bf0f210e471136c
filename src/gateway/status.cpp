#include "gateway/status.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

#include "base/metrics.hpp"
#include "gateway/loop.hpp"
#include "gateway/throughput.hpp"

namespace postbus::gateway {
namespace {

namespace json = boost::json;
using metrics::counter;
using metrics::gauge;

/** The busiest this many channels are listed. */
constexpr std::size_t listed_channels = 200;

struct gathering {
  std::mutex guard;
  std::map<std::string, std::size_t> listeners;
  std::size_t missing;
};

std::string build(server::shared& shared, const std::map<std::string, std::size_t>& listeners) {
  json::object status = shared.behind.status();
  const auto head = shared.hub.head();
  status["version"] = shared.options.version;
  status["demo"] = shared.options.demo;
  status["ready"] = shared.behind.ready();
  status["draining"] = shared.draining.load();
  status["uptime_s"] = std::chrono::duration<double>(steady::now() - shared.started).count();
  status["head"] = bus::to_text(head);
  status["epoch"] = bus::to_text(head).substr(0, 8);
  status["sockets"] = metrics::value(gauge::sockets);
  status["subscriptions"] = metrics::value(gauge::subscriptions);
  const auto counted = counted_flow();
  const auto rates = shared.flowing.until(steady::now(), counted);
  status["events_in"] = counted.events_in;
  status["events_in_per_s"] = rates.events_in;
  status["events_out"] = counted.events_out;
  status["events_out_per_s"] = rates.events_out;
  status["posts"] = counted.posts;
  status["posts_per_s"] = rates.posts;
  status["listening"] = metrics::value(gauge::listening);
  status["history_bytes"] = metrics::value(gauge::history_bytes);
  status["slow_readers"] = metrics::value(counter::slow_readers);

  json::array channels;
  const auto add = [&](std::string name, std::size_t count, std::uint64_t events, const json::value& last) {
    std::ranges::replace(name, '\x1f', ' ');  // a filtered feed: what it shows stands behind its table's channel
    channels.push_back({{"name", name}, {"listeners", count}, {"events", events}, {"last", last}});
  };
  for (const auto& c : shared.hub.summary(listed_channels)) {
    const auto found = listeners.find(c.name);
    add(c.name, found == listeners.end() ? 0 : found->second, c.events, c.events == 0 ? json::value{} : json::value(bus::to_text(c.last)));
  }
  status["channels"] = std::move(channels);
  status["channels_in_memory"] = metrics::value(gauge::channels);
  return json::serialize(status) + "\n";
}

}  // namespace

flow counted_flow() {
  return {.events_in = metrics::value(counter::events_wal) + metrics::value(counter::events_notify),
          .events_out = metrics::value(counter::events_out),
          .posts = metrics::value(counter::posts_ok)};
}

void gather_status(loop& home, std::function<void(std::string)> done) {
  auto& shared = home.shared();
  auto all = std::make_shared<gathering>();
  all->missing = shared.loops.size();
  for (auto& each : shared.loops)
    each->post([&home, &shared, &each = *each, all, done] {
      const std::scoped_lock lock{all->guard};
      for (auto& [channel, count] : each.shard().summary()) all->listeners[channel] += count;
      if (--all->missing == 0) home.post([&shared, all, done] { done(build(shared, all->listeners)); });
    });
}

}  // namespace postbus::gateway
