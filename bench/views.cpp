// What filtered feeds cost per row change: a stream's frames → decode → event → the views it concerns → hub → one listener per
// view, all on this thread, without sockets. The frames are prepared: updates of random rows, each of which exactly one view
// shows. Like bench_decode it is made of the server's own rooms, because they are what it measures.
// `--receiving 1`: all rows belong to one view and the others are idle, so that the number of subscriptions is all that
// differs. `--receiving all`: the rows belong to random views, so that the processor's caches differ as well.
// `--receiving floor`: none of that, but only the memory: a loop that writes to two cache lines of each of four objects of a
// random view, asked for as far ahead as the server does.
//   bench_views --changes N --views N --receiving 1|all|floor
// prints {"views":N,"ns_per_change":T,"subscribe_us":S,"bytes_per_view":B}, CPU time.
#include <fmt/format.h>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/prefetch.hpp"
#include "bus/hub.hpp"
#include "bus/shard.hpp"
#include "changes/assembler.hpp"
#include "feeds/predicate.hpp"
#include "feeds/table_feeds.hpp"

namespace {

namespace asio = boost::asio;
using namespace postbus;

constexpr feeds::oid table_oid = 20'000;
constexpr int rows_per_transaction = 10, transactions_per_turn = 10;

/** One watched table and nothing to look up. */
class one_table : public feeds::catalog {
public:
  asio::awaitable<result<std::vector<feeds::watched_table>>> watched(std::uint64_t) override {
    co_return std::vector<feeds::watched_table>{
        {.table = table_oid, .schema = "public", .name = "orders", .columns = {}, .notify = {}, .primary_key = {"id"}}};
  }
  asio::awaitable<result<std::vector<feeds::type_row>>> types(std::vector<feeds::oid>) override {
    co_return std::vector<feeds::type_row>{};
  }
  asio::awaitable<result<std::string>> describe(const feeds::table_description&) override { co_return std::string{}; }
};

struct counting : bus::listener {
  void on_event(bus::topic&, const bus::event_ref& e) override { bytes += e->payload.size(), ++events; }
  std::uint64_t bytes{}, events{};
};

void append_text(std::string& out, std::string_view text) { out.append(text).push_back('\0'); }

std::string relation() {
  std::string out{"R"};
  append_big(out, table_oid);
  append_text(out, "public");
  append_text(out, "orders");
  out += 'i';
  struct column {
    std::string_view name;
    feeds::oid type;
    bool key;
  };
  constexpr column columns[] = {{"id", 20, true},       {"tenant", 23, true}, {"status", 25, false},
                                {"total", 1700, false}, {"at", 1184, false},  {"note", 25, false}};
  append_big(out, static_cast<std::uint16_t>(std::size(columns)));
  for (const auto& c : columns) {
    append_big(out, static_cast<std::uint8_t>(c.key));
    append_text(out, c.name);
    append_big(out, c.type);
    append_big(out, std::int32_t{-1});
  }
  return out;
}

std::string update(std::uint64_t id, std::size_t tenant) {
  const std::string values[] = {
      std::to_string(id), std::to_string(tenant),          "open",
      "1234.50",          "2026-11-25 10:20:30.123456+00", "a note of a usual length, as people write them into such a column"};
  std::string out{"U"};
  append_big(out, table_oid);
  out += 'N';
  append_big(out, static_cast<std::uint16_t>(std::size(values)));
  for (const auto& v : values) {
    out += 't';
    append_big(out, static_cast<std::uint32_t>(v.size()));
    out += v;
  }
  return out;
}

std::string begin(std::uint64_t lsn, std::uint32_t xid) {
  std::string out{"B"};
  append_big(out, lsn);
  append_big(out, std::int64_t{});
  append_big(out, xid);
  return out;
}

std::string commit(std::uint64_t lsn) {
  std::string out{"C"};
  append_big(out, std::uint8_t{});
  append_big(out, lsn);
  append_big(out, lsn + 8);
  append_big(out, std::int64_t{});
  return out;
}

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/** A subscription to the rows of one tenant, as a client's `where=tenant = N` makes it. */
feeds::view::parts rows_of(std::size_t tenant) {
  static const std::vector<feeds::column_facts> columns{
      {.name = "tenant", .type = 23, .kind = feeds::comparable::integer, .type_name = "integer", .cast = "pg_catalog.int4"}};
  const auto written = feeds::parse_filter(fmt::format("tenant = {}", tenant)).value();
  auto bound = feeds::predicate::bind(written, columns,
                                      [](std::string_view, std::string_view literal) { return std::optional<std::string>{literal}; });
  return {.feed = "table:public.orders", .filter = std::move(bound.value())};
}

struct outcome {
  double nanoseconds{}, subscribe_microseconds{};
  std::size_t bytes_per_view{};
};

outcome measure(std::size_t views, std::size_t changes, bool all_receive) {
  asio::io_context loop;
  bus::hub hub;
  bus::shard shard{hub, {}, [] {}};
  feeds::table_feeds feeds{std::make_unique<one_table>()};
  changes::assembler made{{}, &feeds};
  made.start(1, 0, 1, 150000);
  hub.begin(made.applied());
  asio::co_spawn(loop, feeds.resolve(), asio::detached);
  loop.run();

  counting heard;
  std::vector<std::shared_ptr<const feeds::view>> held;
  held.reserve(views);
  const auto memory = ::mallinfo2().uordblks;
  const auto subscribing = cpu_seconds();
  for (std::size_t i = 0; i < views; ++i) {
    held.push_back(feeds.views().open(rows_of(i), loop.get_executor()));
    shard.subscribe(heard, held.back()->channel(), bus::from_now{}, held.back()->feed());
  }
  outcome out{.nanoseconds = 0,
              .subscribe_microseconds = (cpu_seconds() - subscribing) / static_cast<double>(views) * 1e6,
              .bytes_per_view = (::mallinfo2().uordblks - memory) / views};

  std::mt19937_64 random{views};
  std::vector<std::string> frames;
  for (std::size_t i = 0; i < std::min<std::size_t>(changes, 200'000); ++i)
    frames.push_back(update(random() % 1'000'000'000, all_receive ? random() % views : views / 2));
  std::uint64_t lsn = 1000;
  const auto take = [&](const std::string& payload) {
    const auto taken = made.take(postgres::pgoutput::xlog_data{.wal_start = 0, .wal_end = 0, .sent = 0, .payload = payload});
    if (!taken) throw std::runtime_error{taken.error().text};
  };
  std::size_t next = 0;
  const auto turn = [&] {
    for (int t = 0; t < transactions_per_turn; ++t) {
      take(begin(lsn, static_cast<std::uint32_t>(lsn)));
      if (lsn == 1000) take(relation());
      for (int row = 0; row < rows_per_transaction; ++row) take(frames[next++ % frames.size()]);
      take(commit(lsn));
      lsn += 16;
    }
    auto ready = made.committed();
    feeds.before_publish(*ready);
    hub.publish(std::move(ready));
    shard.deliver();
  };
  for (int i = 0; i < 100; ++i) turn();  // the table becomes known and the views are placed
  heard = {};
  const auto turns = changes / (rows_per_transaction * transactions_per_turn);
  const auto begun = cpu_seconds();
  for (std::size_t i = 0; i < turns; ++i) turn();
  const auto done = static_cast<double>(turns * rows_per_transaction * transactions_per_turn);
  out.nanoseconds = (cpu_seconds() - begun) / done * 1e9;
  if (heard.events != static_cast<std::uint64_t>(done)) throw std::runtime_error{"not every change reached its one listener"};
  for (const auto& v : held) shard.unsubscribe(heard, v->channel());
  held.clear();
  loop.restart();
  loop.run();
  return out;
}

/** Nanoseconds a change. */
double touch(std::size_t views, std::size_t changes) {
  struct object {
    std::uint64_t lines[5][8];
  };
  std::vector<std::unique_ptr<object>> all;  // of one view beside one another, as a subscription makes them
  while (all.size() < 4 * views) all.push_back(std::make_unique<object>());
  std::mt19937_64 random{views};
  std::vector<std::array<object*, 4>> concerned(std::min<std::size_t>(changes, 200'000) + prefetch_distance);
  for (auto& each : concerned) {
    const auto first = 4 * (random() % views);
    for (std::size_t o = 0; o < each.size(); ++o) each[o] = all[first + o].get();
  }
  std::uint64_t zero = 0;
  const auto begun = cpu_seconds();
  for (std::size_t i = 0; i < changes; ++i) {
    const auto at = i % (concerned.size() - prefetch_distance);
    for (const auto* const o : concerned[at + prefetch_distance]) prefetch(o, 2 * sizeof(object::lines[0]));
    for (auto* const o : concerned[at + zero]) zero |= ++o->lines[0][0], zero |= ++o->lines[1][0];
    asm volatile("and $0, %0" : "+r"(zero));  // the next step waits for this one
  }
  return (cpu_seconds() - begun) / static_cast<double>(changes) * 1e9;
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  const auto& receiving = given["--receiving"];
  if (given.size() != 3 || (receiving != "1" && receiving != "all" && receiving != "floor")) {
    std::fputs("bench_views --changes N --views N --receiving 1|all|floor\n", stderr);
    return 2;
  }
  if (receiving == "floor") {
    fmt::print("{{\"views\":{},\"ns_per_change\":{:.1f}}}\n", given["--views"],
               touch(std::stoul(given["--views"]), std::stoul(given["--changes"])));
    return 0;
  }
  const auto r = measure(std::stoul(given["--views"]), std::stoul(given["--changes"]), receiving == "all");
  fmt::print("{{\"views\":{},\"ns_per_change\":{:.1f},\"subscribe_us\":{:.2f},\"bytes_per_view\":{}}}\n", given["--views"], r.nanoseconds,
             r.subscribe_microseconds, r.bytes_per_view);
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_views: {}\n", e.what());
  return 1;
}
