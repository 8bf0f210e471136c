#include "driver/receivers.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "driver/clock.hpp"
#include "driver/database.hpp"
#include "driver/marker.hpp"
#include "driver/sockets.hpp"

namespace bench {

namespace {

constexpr int look_up_ms = 50;  // how often a receiver that waits looks at `stop`
constexpr std::int64_t pong_every_ns = 10'000'000'000;

bool readable(int fd) {
  pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&wait, 1, look_up_ms) > 0;
}

void consume(PGconn* session) {
  if (PQconsumeInput(session) == 0) throw failure{PQerrorMessage(session)};
}

}  // namespace

void run_websocket(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready,
                   const received& found) {
  const int fd = connect_blocking(parse_address(options.gateway));
  send_all(fd, websocket_request(options.path, options.gateway));
  std::vector<char> buffer(marker_size + 64 * 1024);
  std::string head;
  scanner markers;
  carry left;
  bool open = false;
  auto spoke = now_ns();
  while (!stop) {
    if (open && now_ns() > spoke + pong_every_ns) {  // unasked for: a ping stands anywhere among the messages
      std::string pong;
      append_client_frame(pong, 10, {});
      send_all(fd, pong);
      spoke = now_ns();
    }
    if (!readable(fd)) continue;
    auto* const into = buffer.data() + marker_size;
    const auto got = recv(fd, into, buffer.size() - marker_size, 0);
    const auto at = now_ns();
    if (got <= 0) throw failure{"the gateway closed the WebSocket"};
    if (!open) {
      head.append(into, static_cast<std::size_t>(got));
      if (head.find("\r\n\r\n") == std::string::npos) continue;
      if (!head.starts_with("HTTP/1.1 101")) throw failure{fmt::format("refused: {}", head)};
      open = true;
      ready();
      continue;
    }
    std::memcpy(into - left.size, left.bytes, left.size);
    const auto* const from = into - left.size;
    markers.scan(from, static_cast<std::size_t>(into + got - from), left, [&](std::uint64_t number) { found(number, at); });
  }
  close(fd);
}

void run_replication(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready,
                     const received& found) {
  const auto session = open_session(options.database + " replication=database");
  const auto slot = fmt::format("bench_{}", getpid());
  execute(session.get(), fmt::format("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')", slot));
  execute(session.get(),
          fmt::format("START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names 'bench', messages 'true')", slot),
          PGRES_COPY_BOTH);
  ready();
  scanner markers;
  carry left;
  std::string seen(8, '\0');  // WAL position of the last message, as it came
  while (!stop) {
    if (!readable(PQsocket(session.get()))) continue;
    consume(session.get());
    while (true) {
      char* bytes = nullptr;
      const int size = PQgetCopyData(session.get(), &bytes, 1);
      if (size == 0) break;
      if (size < 0) throw failure{PQerrorMessage(session.get())};
      const std::unique_ptr<char, void (*)(void*)> held{bytes, PQfreemem};
      const auto at = now_ns();
      if (size > 24) markers.scan(bytes, static_cast<std::size_t>(size), left, [&](std::uint64_t number) { found(number, at); });
      if (bytes[0] == 'k' && size >= 18 && bytes[17] == 1) {
        seen.assign(bytes + 1, 8);
        const auto status = "r" + seen + seen + seen + std::string(9, '\0');
        if (PQputCopyData(session.get(), status.data(), static_cast<int>(status.size())) != 1 || PQflush(session.get()) != 0) {
          throw failure{PQerrorMessage(session.get())};
        }
      }
    }
  }
}

void run_listen(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready, const received& found) {
  const auto session = open_session(options.database);
  execute(session.get(), fmt::format("LISTEN \"{}\"", options.channel));
  ready();
  scanner markers;
  carry left;
  while (!stop) {
    if (!readable(PQsocket(session.get()))) continue;
    consume(session.get());
    while (true) {
      const std::unique_ptr<PGnotify, void (*)(void*)> notify{PQnotifies(session.get()), PQfreemem};
      if (!notify) break;
      const auto at = now_ns();
      markers.scan(notify->extra, std::strlen(notify->extra), left, [&](std::uint64_t number) { found(number, at); });
    }
  }
}

}  // namespace bench
