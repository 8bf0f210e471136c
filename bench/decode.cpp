// WAL to hub: reads an existing slot from its start up to an LSN, decodes, makes events and publishes them into a hub
// without listeners. Unlike the other drivers it is made of the server's own rooms, because they are what it measures.
//   bench_decode --db CONNINFO --slot NAME --publication NAME --until LSN
// prints {"seconds":S,"events":N}, counted from the START_REPLICATION command.
#include <fmt/format.h>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>

#include "bus/hub.hpp"
#include "changes/assembler.hpp"
#include "feeds/table_feeds.hpp"
#include "postgres/replication_stream.hpp"

namespace {

namespace asio = boost::asio;
using namespace postbus;
using changes::assembler;

template <class T>
T must(result<T> r) {
  if (!r) throw std::runtime_error{r.error().text + " (" + r.error().detail + ")"};
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

/** Every table of the publication counts as watched: the bench needs no schema. */
class published : public feeds::database_catalog {
public:
  published(std::string conninfo, std::string publication)
      : database_catalog{conninfo}, conninfo_{conninfo}, publication_{std::move(publication)} {}
  asio::awaitable<result<std::vector<feeds::watched_table>>> watched(std::uint64_t) override {
    auto session = must(co_await postgres::connection::open({.conninfo = conninfo_}));
    const postgres::parameter name[] = {publication_};
    const auto rows = must(co_await session.query(
        "select r.prrelid, n.nspname, c.relname from pg_publication p join pg_publication_rel r on r.prpubid = p.oid "
        "join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace where p.pubname = $1",
        name, std::chrono::seconds{10}));
    std::vector<feeds::watched_table> all;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      auto& made = all.emplace_back();
      made.table = static_cast<feeds::oid>(std::stoul(std::string{rows.text(row, 0)}));
      made.schema = rows.text(row, 1);
      made.name = rows.text(row, 2);
    }
    co_return all;
  }

private:
  std::string conninfo_, publication_;
};

asio::awaitable<void> measure(std::map<std::string, std::string> given) {
  postgres::stream_options options;
  options.conninfo = given["--db"];
  options.publication = given["--publication"];
  const auto until = postgres::parse_lsn(given["--until"]).value();
  feeds::table_feeds feeds{std::make_unique<published>(options.conninfo, options.publication)};
  bus::hub hub;
  assembler made{{}, &feeds};
  auto stream = must(co_await postgres::replication_stream::open(std::move(options)));
  made.start(1, 0, 1, stream.server_version());
  hub.begin(made.applied());
  must(co_await feeds.resolve());

  std::uint64_t events = 0;
  const auto publish = [&] {
    if (auto ready = made.committed()) {
      events += ready->events().size();
      hub.publish(std::move(ready));
    }
    hub.advance(made.applied());
  };
  stream.use_slot(given["--slot"], 0);  // from its start
  const auto begun = steady::now();
  must(co_await stream.start());
  for (;;) {
    for (;;) {
      auto frame = must(stream.next());
      if (!frame) break;
      const auto want = must(made.take(*frame));
      if (want == assembler::want::resolve) must(co_await feeds.resolve());
      if (want == assembler::want::publish) publish();
    }
    publish();
    if (made.applied().lsn >= until) break;  // before the wait: nothing more comes until the next keep-alive
    must(co_await stream.wait(std::chrono::seconds{10}));
  }
  const std::chrono::duration<double> seconds = steady::now() - begun;
  fmt::print("{{\"seconds\":{:.4f},\"events\":{}}}\n", seconds.count(), events);
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  if (given.size() != 4) {
    std::fputs("bench_decode --db CONNINFO --slot NAME --publication NAME --until LSN\n", stderr);
    return 2;
  }
  asio::io_context loop;
  std::exception_ptr thrown;
  asio::co_spawn(loop, measure(std::move(given)), [&](std::exception_ptr e) { thrown = e; });
  loop.run();
  if (thrown) std::rethrow_exception(thrown);
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_decode: {}\n", e.what());
  return 1;
}
