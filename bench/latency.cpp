// The way of single messages: one session commits them one after the other at a jittered pace, one receiver in another
// thread takes the time at which each arrives. Reported are send → receipt and commit acknowledged → receipt (which is
// negative where the message overtakes the acknowledgement), and for publishers with synchronous_commit=off the first
// message after a pause apart from those sent once it had arrived.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <random>
#include <thread>
#include <vector>

#include "driver/clock.hpp"
#include "driver/database.hpp"
#include "driver/marker.hpp"
#include "driver/receivers.hpp"

namespace {

using bench::failure;

struct plan {
  bench::receiver_options receiver;
  std::string receive{"websocket"};
  std::string statement;  ///< with $1 for the payload
  std::string set;        ///< run once in the publishing session
  double rate{400};
  std::size_t count{1200};
  std::size_t size{200};
  double pause{};  ///< seconds of silence between ready and the first message
};

plan parse(int argc, char** argv) {
  plan chosen;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--db")
      chosen.receiver.database = value;
    else if (name == "--gateway")
      chosen.receiver.gateway = value;
    else if (name == "--path")
      chosen.receiver.path = value;
    else if (name == "--channel")
      chosen.receiver.channel = value;
    else if (name == "--receive")
      chosen.receive = value;
    else if (name == "--statement")
      chosen.statement = value;
    else if (name == "--set")
      chosen.set = value;
    else if (name == "--rate")
      chosen.rate = std::stod(value);
    else if (name == "--count")
      chosen.count = std::stoul(value);
    else if (name == "--size")
      chosen.size = std::stoul(value);
    else if (name == "--pause")
      chosen.pause = std::stod(value);
    else
      throw failure{fmt::format("unknown option {}", name)};
  }
  return chosen;
}

void sleep_until(std::int64_t at_ns) {
  const timespec until{.tv_sec = at_ns / 1'000'000'000, .tv_nsec = at_ns % 1'000'000'000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

/** Sorted differences in microseconds; these may be negative, so they are kept as they are. */
struct spread {
  std::vector<double> us;
  double quantile(double share) const { return us.empty() ? 0 : us[static_cast<std::size_t>(share * static_cast<double>(us.size() - 1))]; }
  std::string json() {
    std::ranges::sort(us);
    return fmt::format(R"({{"count":{},"p50_us":{:.1f},"p99_us":{:.1f},"max_us":{:.1f}}})", us.size(), quantile(0.5), quantile(0.99),
                       quantile(1));
  }
};

double us(std::int64_t from, std::int64_t to) { return static_cast<double>(to - from) / 1e3; }

std::string report(const std::vector<std::int64_t>& sent, const std::vector<std::int64_t>& acknowledged,
                   const std::vector<std::atomic<std::int64_t>>& received) {
  spread from_send, from_ack, later;
  std::size_t missing = 0;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    const auto at = received[i].load();
    if (at == 0) {
      ++missing;
      continue;
    }
    from_send.us.push_back(us(sent[i], at));
    from_ack.us.push_back(us(acknowledged[i], at));
    if (received[0] != 0 && sent[i] > received[0]) later.us.push_back(us(sent[i], at));
  }
  return fmt::format(R"({{"missing":{},"send_to_receipt":{},"ack_to_receipt":{},"first_us":{:.1f},"after_first":{}}})", missing,
                     from_send.json(), from_ack.json(), us(sent[0], received[0]), later.json());
}

/** Lets the receiver's thread end when the publisher fails. */
struct stop_at_end {
  std::atomic<bool>& flag;
  ~stop_at_end() { flag = true; }
};

std::string measure(const plan& chosen) {
  std::vector<std::int64_t> sent(chosen.count), acknowledged(chosen.count);
  std::vector<std::atomic<std::int64_t>> received(chosen.count);
  std::atomic<std::size_t> arrived{0};
  std::atomic<bool> stop{false};
  std::promise<void> ready;

  const auto found = [&](std::uint64_t number, std::int64_t at) {
    if (number >= received.size() || received[number].exchange(at) != 0) return;
    ++arrived;
  };
  const auto run = chosen.receive == "replication" ? bench::run_replication
                   : chosen.receive == "listen"    ? bench::run_listen
                                                   : bench::run_websocket;
  auto receiver = std::async(std::launch::async, [&] {
    bool was_ready = false;
    try {
      run(
          chosen.receiver, stop,
          [&] {
            was_ready = true;
            ready.set_value();
          },
          found);
    } catch (...) {
      if (was_ready) throw;
      ready.set_exception(std::current_exception());
    }
  });
  const stop_at_end guard{stop};
  ready.get_future().get();

  const auto session = bench::open_session(chosen.receiver.database);
  if (!chosen.set.empty()) bench::execute(session.get(), chosen.set);
  bench::expect(session.get(), PQprepare(session.get(), "publish", chosen.statement.c_str(), 1, nullptr));
  std::mt19937_64 random{1};
  std::uniform_real_distribution<double> jitter{0.5, 1.5};
  auto next = bench::now_ns() + static_cast<std::int64_t>(chosen.pause * 1e9);
  for (std::size_t i = 0; i < chosen.count; ++i) {
    sleep_until(next);
    const auto text = bench::message(chosen.size, i);
    const char* const values[] = {text.c_str()};
    sent[i] = bench::now_ns();
    bench::expect(session.get(), PQexecPrepared(session.get(), "publish", 1, values, nullptr, nullptr, 0));
    acknowledged[i] = bench::now_ns();
    next = std::max(next + static_cast<std::int64_t>(jitter(random) * 1e9 / chosen.rate), acknowledged[i]);
  }
  for (const auto limit = bench::now_ns() + 3'000'000'000; arrived < chosen.count && bench::now_ns() < limit;) {
    if (receiver.wait_for(std::chrono::milliseconds{10}) == std::future_status::ready) break;
  }
  stop = true;
  receiver.get();
  return report(sent, acknowledged, received);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    fmt::print("{}\n", measure(parse(argc, argv)));
    return 0;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "bench_latency: {}\n", problem.what());
    return 1;
  }
}
