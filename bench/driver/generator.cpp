#include "driver/generator.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include "driver/clock.hpp"
#include "driver/histogram.hpp"
#include "driver/process.hpp"
#include "driver/sockets.hpp"

namespace bench {

namespace {

constexpr std::int64_t second = 1'000'000'000;
std::int64_t nanoseconds(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

}  // namespace

generator::generator(subscribers::options listening, publisher::options publishing, std::vector<int> server)
    : subscribers_{std::move(listening)}, publishing_{std::move(publishing)}, server_{std::move(server)} {}

std::string generator::connect(std::size_t count) {
  const auto before = cpu_ns(server_);
  const auto seconds = subscribers_.connect(count);
  return fmt::format(R"({{"count":{},"seconds":{:.6f},"per_second":{:.0f},"server_cpu_seconds":{:.4f}}})", count, seconds,
                     static_cast<double>(count) / seconds, static_cast<double>(cpu_ns(server_) - before) / 1e9);
}

std::string generator::disconnect() {
  publisher_.reset();
  subscribers_.disconnect();
  return "{}";
}

publisher& generator::publishes() {
  if (!publisher_) {
    publisher_ = std::make_unique<publisher>(publishing_);
    subscribers_.add_publisher(publisher_->fd());
  }
  return *publisher_;
}

void generator::pump(std::int64_t wait_ns) {
  const auto turn = subscribers_.turn(wait_ns, [this](std::uint64_t, std::int64_t) { ++delivered_; });
  if (turn.publisher_ready) {
    publisher_->drain();
    publisher_->flush();
  }
}

// Waits until all that was published has arrived; false when nothing more came for five seconds.
bool generator::drain(std::uint64_t expected) {
  auto moved = now_ns();
  while (delivered_ < expected) {
    const auto before = delivered_;
    pump(second / 10);
    if (delivered_ != before) moved = now_ns();
    if (now_ns() - moved > 5 * second) return false;
  }
  return true;
}

// One message that everybody must get, so that a phase begins with all subscribed and nothing under way.
void generator::settle() {
  delivered_ = 0;
  publishes().add(0);
  publishes().flush();
  if (!drain(subscribers_.size())) {
    throw failure{fmt::format("a message reached {} of {} subscribers", delivered_, subscribers_.size())};
  }
  delivered_ = 0;
}

std::string generator::closed(std::uint64_t in_flight, double seconds) {
  settle();
  const auto count = subscribers_.size();
  std::uint64_t published = 0;
  const auto before = cpu_ns(server_);
  const auto own_before = cpu_ns({getpid()});
  const auto start = now_ns();
  const auto until = start + nanoseconds(seconds);
  while (now_ns() < until) {
    for (const auto done = delivered_ / count; published - done < in_flight; ++published) publisher_->add(0);
    publisher_->flush();
    pump(second / 10);
  }
  const auto elapsed = static_cast<double>(now_ns() - start) / 1e9;
  const auto counted = delivered_;
  const auto cpu = static_cast<double>(cpu_ns(server_) - before) / 1e9;
  const auto own_cpu = static_cast<double>(cpu_ns({getpid()}) - own_before) / 1e9;
  drain(published * count);
  return fmt::format(R"({{"per_second":{:.0f},"messages":{},"missing":{},"server_cores":{:.4f},"driver_cores":{:.4f}}})",
                     static_cast<double>(counted) / elapsed, published, published * count - delivered_, cpu / elapsed, own_cpu / elapsed);
}

std::string generator::open(double rate, double seconds) {
  settle();
  const auto count = subscribers_.size();
  const auto interval = nanoseconds(1 / rate);
  const auto messages = std::max<std::int64_t>(1, static_cast<std::int64_t>(rate * seconds));
  histogram latency;
  const auto before = cpu_ns(server_);
  const auto start = now_ns() + second / 100;
  std::int64_t published = 0;
  auto moved = start;
  while (published < messages || latency.total() < static_cast<std::uint64_t>(messages) * count) {
    auto now = now_ns();
    for (; published < messages && start + published * interval <= now; ++published) {
      publisher_->add(static_cast<std::uint64_t>(start + published * interval));
    }
    publisher_->flush();
    const auto wait = published < messages ? start + published * interval - now : second / 10;
    const auto turn = subscribers_.turn(std::max<std::int64_t>(wait, 0), [&latency](std::uint64_t due, std::int64_t received) {
      latency.add(received - static_cast<std::int64_t>(due));
    });
    if (turn.publisher_ready) {
      publisher_->drain();
      publisher_->flush();
    }
    now = now_ns();
    if (turn.read > 0 || published < messages) moved = now;
    if (now - moved > 5 * second) break;
  }
  // What the server spent on these messages, by the time in which they were due.
  const auto cpu = static_cast<double>(cpu_ns(server_) - before) / (static_cast<double>(messages) * static_cast<double>(interval));
  return fmt::format(
      R"({{"per_second":{:.0f},"p50_us":{:.1f},"p99_us":{:.1f},"p999_us":{:.1f},"max_us":{:.1f},"missing":{},"server_cores":{:.4f}}})",
      rate * static_cast<double>(count), latency.quantile_us(0.5), latency.quantile_us(0.99), latency.quantile_us(0.999), latency.max_us(),
      static_cast<std::uint64_t>(messages) * count - latency.total(), cpu);
}

std::string generator::idle(double seconds) {
  const auto before = cpu_ns(server_);
  const auto start = now_ns();
  delivered_ = 0;
  while (now_ns() < start + nanoseconds(seconds)) pump(second / 10);
  const auto elapsed = static_cast<double>(now_ns() - start) / 1e9;
  return fmt::format(R"({{"seconds":{:.3f},"deliveries":{},"server_cores":{:.6f}}})", elapsed, delivered_,
                     static_cast<double>(cpu_ns(server_) - before) / 1e9 / elapsed);
}

}  // namespace bench
