// How far behind its writers a gateway is: sessions that each insert one row a transaction as fast as the commits are
// acknowledged, and one WebSocket client that notes when each row arrives. Prints a line when the last commit has been
// acknowledged, `written`, and when all has arrived, or nothing has come for ten seconds,
// {"rows":N,"per_second":R,"missing":M,"ack_to_receipt":{"p50_ms":…,"p99_ms":…,"max_ms":…},"send_to_receipt":{…}}.
// A row may arrive before its commit is acknowledged: that lag is negative.
//
// bench_lag --db CONNINFO --gateway ADDRESS --path PATH --statement SQL --sessions N --seconds S
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <future>
#include <map>
#include <thread>
#include <vector>

#include "driver/clock.hpp"
#include "driver/database.hpp"
#include "driver/marker.hpp"
#include "driver/receivers.hpp"

namespace {

using bench::failure;

constexpr double most_per_second = 100'000;
constexpr std::int64_t silence_ns = 10'000'000'000;

struct row {
  std::int64_t sent{}, acknowledged{};
  std::atomic<std::int64_t> received{};
};

/** The rows of all writers, by their numbers. */
struct ledger {
  explicit ledger(std::size_t most) : rows(most) {}
  std::vector<row> rows;
  std::atomic<std::size_t> taken{0}, arrived{0};
  std::atomic<std::int64_t> last_arrival{0};
};

void write_rows(const std::map<std::string, std::string>& given, std::int64_t until, ledger& all) {
  const auto session = bench::open_session(given.at("--db"));
  bench::expect(session.get(), PQprepare(session.get(), "write", given.at("--statement").c_str(), 1, nullptr));
  while (bench::now_ns() < until) {
    const auto number = all.taken++;
    auto& r = all.rows.at(number);
    const auto text = bench::message(bench::marker_size, number);
    const char* const values[] = {text.c_str()};
    r.sent = bench::now_ns();
    bench::expect(session.get(), PQexecPrepared(session.get(), "write", 1, values, nullptr, nullptr, 0));
    r.acknowledged = bench::now_ns();
  }
}

template <class From>
std::string spread(const ledger& all, From from) {
  std::vector<double> ms;
  for (std::size_t i = 0; i < all.taken; ++i)
    if (const auto at = all.rows[i].received.load(); at != 0) ms.push_back(static_cast<double>(at - from(all.rows[i])) / 1e6);
  std::ranges::sort(ms);
  const auto quantile = [&](double share) {
    return ms.empty() ? 0 : ms[static_cast<std::size_t>(share * static_cast<double>(ms.size() - 1))];
  };
  return fmt::format(R"({{"p50_ms":{:.3f},"p99_ms":{:.3f},"max_ms":{:.3f}}})", quantile(0.5), quantile(0.99), quantile(1));
}

void run(const std::map<std::string, std::string>& given) {
  const auto sessions = std::stoul(given.at("--sessions"));
  const auto seconds = std::stod(given.at("--seconds"));
  ledger all{static_cast<std::size_t>(seconds * most_per_second)};
  std::atomic<bool> stop{false};
  std::promise<void> ready;
  auto receiver = std::async(std::launch::async, [&] {
    bench::run_websocket(
        {.database = {}, .gateway = given.at("--gateway"), .path = given.at("--path"), .channel = {}}, stop, [&] { ready.set_value(); },
        [&](std::uint64_t number, std::int64_t at) {
          if (number >= all.rows.size() || all.rows[number].received.exchange(at) != 0) return;
          ++all.arrived;
          all.last_arrival = at;
        });
  });
  if (auto opened = ready.get_future(); opened.wait_for(std::chrono::seconds{15}) != std::future_status::ready) {
    stop = true;
    receiver.get();
    throw failure{"the WebSocket was not open within 15 s"};
  }
  const auto begun = bench::now_ns();
  const auto until = begun + static_cast<std::int64_t>(seconds * 1e9);
  std::vector<std::future<void>> writers;
  for (std::size_t i = 0; i < sessions; ++i) writers.push_back(std::async(std::launch::async, [&] { write_rows(given, until, all); }));
  std::exception_ptr problem;
  for (auto& w : writers) {
    try {
      w.get();
    } catch (...) {
      problem = std::current_exception();
    }
  }
  const auto written = bench::now_ns();
  if (problem == nullptr) {
    fmt::print("written\n");
    std::fflush(stdout);
    while (all.arrived < all.taken && bench::now_ns() < std::max(written, all.last_arrival.load()) + silence_ns) {
      if (receiver.wait_for(std::chrono::milliseconds{10}) == std::future_status::ready) break;
    }
  }
  stop = true;
  receiver.get();
  if (problem != nullptr) std::rethrow_exception(problem);
  fmt::print(R"({{"rows":{},"per_second":{:.1f},"missing":{},"ack_to_receipt":{},"send_to_receipt":{}}})"
             "\n",
             all.taken.load(), static_cast<double>(all.taken) * 1e9 / static_cast<double>(written - begun), all.taken - all.arrived,
             spread(all, [](const row& r) { return r.acknowledged; }), spread(all, [](const row& r) { return r.sent; }));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::map<std::string, std::string> given;
    for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
    if (given.size() != 6)
      throw failure{"usage: bench_lag --db CONNINFO --gateway ADDRESS --path PATH --statement SQL --sessions N --seconds S"};
    run(given);
    return 0;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "bench_lag: {}\n", problem.what());
    return 1;
  }
}
