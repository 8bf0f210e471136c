// How fast a table's rows come: by COPY … TO STDOUT into libpq, which counts lines and drops them, or by a gateway's
// snapshot into N WebSockets at once, which count the rows' frames and drop them. Prints {"rows":R,"seconds":S}; S counts from
// the connected session's COPY, or from the first of the handshakes, to the last row of the last one.
//
// bench_snapshot --copy CONNINFO TABLE | --sockets ADDRESS PATH COUNT
#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
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

/** One WebSocket: goes from frame to frame, as libpq goes from line to line, and counts those of rows until `live`. */
class row_counter {
public:
  explicit row_counter(int fd) : fd_{fd} {}

  /** Takes what has arrived. */
  void receive() {
    const auto got = ::recv(fd_, buffer_.data() + held_, buffer_.size() - held_, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) throw failure{"a connection ended before its snapshot was complete"};
    held_ += static_cast<std::size_t>(got);
    std::string_view left{buffer_.data(), held_};
    if (!open_) {
      const auto end = left.find("\r\n\r\n");
      if (end == std::string_view::npos) return;
      if (!left.starts_with("HTTP/1.1 101")) throw failure{fmt::format("refused: {}", left)};
      left.remove_prefix(end + 4);
      open_ = true;
    }
    while (const auto size = whole_frame(left)) {
      look_at(left.substr(0, size));
      left.remove_prefix(size);
    }
    held_ = left.size();
    if (held_ == buffer_.size()) throw failure{"a frame is larger than this client takes"};
    std::memmove(buffer_.data(), left.data(), held_);
  }

  std::uint64_t rows{};
  bool complete{};

private:
  /** Size of the frame at the front with its header (RFC 6455, 5.2); 0: it is not whole. */
  static std::size_t whole_frame(std::string_view bytes) {
    const auto at = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
    if (bytes.size() < 2) return 0;
    std::size_t header = 2, size = at(1);
    if (size >= 126) {
      const std::size_t wide = size == 126 ? 2 : 8;
      if (bytes.size() < header + wide) return 0;
      size = 0;
      for (std::size_t i = 0; i < wide; ++i) size = size << 8 | at(header++);
    }
    return bytes.size() < header + size ? 0 : header + size;
  }

  void look_at(std::string_view frame) {
    constexpr std::size_t front = 128;  // an event's kind stands before its payload
    frame = frame.substr(0, front);
    if (frame.find(R"("kind":"row")") != std::string_view::npos)
      ++rows;
    else if (frame.find(R"("kind":"live")") != std::string_view::npos)
      complete = true;
  }

  int fd_;
  bool open_{};
  std::string buffer_ = std::string(256 * 1024, '\0');
  std::size_t held_{};
};

outcome listen(const std::string& address, const std::string& path, std::size_t count) {
  const auto to = bench::parse_address(address);
  std::vector<pollfd> sockets;
  std::vector<row_counter> counters;
  const auto started = bench::now_ns();
  for (std::size_t i = 0; i < count; ++i) {
    const int fd = bench::connect_blocking(to);
    bench::send_all(fd, bench::websocket_request(path, address));
    bench::set_nonblocking(fd);
    sockets.push_back({fd, POLLIN, 0});
    counters.emplace_back(fd);
  }
  for (std::size_t open = count; open > 0;) {
    if (::poll(sockets.data(), sockets.size(), 60'000) <= 0) throw failure{"no rows for a minute"};
    for (std::size_t i = 0; i < count; ++i) {
      if (sockets[i].revents == 0) continue;
      counters[i].receive();
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
