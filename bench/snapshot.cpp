// How fast a table's rows come: by COPY … TO STDOUT into libpq, which counts lines and drops them, or by a gateway's
// snapshot into N WebSockets at once, which count rows in the bytes and drop them. Prints {"rows":R,"seconds":S}; S counts from
// the connected session's COPY, or from the first of the handshakes, to the last row of the last one.
//
// bench_snapshot --copy CONNINFO TABLE | --sockets ADDRESS PATH COUNT
#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "driver/clock.hpp"
#include "driver/sockets.hpp"

namespace {

using bench::failure;

struct outcome {
  std::uint64_t rows{};
  double seconds{};
};

outcome copy(const char* conninfo, const std::string& table) {
  PGconn* const session = PQconnectdb(conninfo);
  if (PQstatus(session) != CONNECTION_OK) throw failure{PQerrorMessage(session)};
  const auto started = bench::now_ns();
  PGresult* const begun = PQexec(session, ("copy " + table + " to stdout").c_str());
  if (PQresultStatus(begun) != PGRES_COPY_OUT) throw failure{PQerrorMessage(session)};
  PQclear(begun);
  outcome got;
  char* row = nullptr;
  int size;
  while ((size = PQgetCopyData(session, &row, 0)) > 0) {
    ++got.rows;
    PQfreemem(row);
  }
  if (size != -1) throw failure{PQerrorMessage(session)};
  got.seconds = static_cast<double>(bench::now_ns() - started) * 1e-9;
  PQfinish(session);
  return got;
}

/** Counts `"kind":"row"` in whatever pieces the bytes come, and sees `"kind":"live"`. */
class row_counter {
public:
  void take(std::string_view bytes) {
    constexpr std::string_view row = R"("kind":"row")", live = R"("kind":"live")";
    held_ += bytes;
    for (auto at = held_.find(row); at != std::string::npos; at = held_.find(row, at + row.size())) ++rows;
    complete = complete || held_.find(live) != std::string::npos;
    // A piece of either word may stand at the end; a whole one that was counted must not stay.
    const auto keep = std::min(held_.size(), row.size() - 1);
    held_.erase(0, held_.size() - keep);
  }
  std::uint64_t rows{};
  bool complete{};

private:
  std::string held_;
};

outcome listen(const std::string& address, const std::string& path, std::size_t count) {
  const auto to = bench::parse_address(address);
  std::vector<pollfd> sockets;
  std::vector<row_counter> counters(count);
  const auto started = bench::now_ns();
  for (std::size_t i = 0; i < count; ++i) {
    const int fd = bench::connect_blocking(to);
    bench::send_all(fd, bench::websocket_request(path, address));
    bench::set_nonblocking(fd);
    sockets.push_back({fd, POLLIN, 0});
  }
  std::string buffer(256 * 1024, '\0');
  for (std::size_t open = count; open > 0;) {
    if (::poll(sockets.data(), sockets.size(), 60'000) <= 0) throw failure{"no rows for a minute"};
    for (std::size_t i = 0; i < count; ++i) {
      if (sockets[i].revents == 0) continue;
      const auto got = ::recv(sockets[i].fd, buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) throw failure{"a connection ended before its snapshot was complete"};
      counters[i].take({buffer.data(), static_cast<std::size_t>(got)});
      if (!counters[i].complete) continue;
      ::close(sockets[i].fd);
      sockets[i].fd = -1;
      --open;
    }
  }
  outcome all{.rows = 0, .seconds = static_cast<double>(bench::now_ns() - started) * 1e-9};
  for (const auto& c : counters) all.rows += c.rows;
  return all;
}

outcome run(const std::vector<std::string>& words) {
  if (words.size() == 3 && words[0] == "--copy") return copy(words[1].c_str(), words[2]);
  if (words.size() == 4 && words[0] == "--sockets") return listen(words[1], words[2], std::stoul(words[3]));
  throw failure{"usage: bench_snapshot --copy CONNINFO TABLE | --sockets ADDRESS PATH COUNT"};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto got = run({argv + 1, argv + argc});
    fmt::print(R"({{"rows":{},"seconds":{}}})"
               "\n",
               got.rows, got.seconds);
    return 0;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "bench_snapshot: {}\n", problem.what());
    return 1;
  }
}
