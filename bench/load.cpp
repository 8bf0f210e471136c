// The fan-out driver: N subscribers and one publisher in one thread on one epoll instance. It reads commands from its
// standard input and answers each with one line of JSON, so that a runner can alternate between servers phase by phase:
//
//   connect N            opens N subscribers               → seconds, per_second, server_cpu_seconds
//   closed W SECONDS     at most W messages in flight      → per_second (deliveries), missing, server_cores
//   open RATE SECONDS    RATE messages a second            → p50_us, p99_us … from the time each was due, server_cores
//   idle SECONDS         publishes nothing                 → server_cores
//   disconnect
//
// Messages carry a marker that is found in any framing (driver/marker.hpp): the same scan counts Postbus, a bare send()
// loop, nchan and Node.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

#include "driver/generator.hpp"
#include "driver/sockets.hpp"

namespace {

using bench::failure;

template <class Value>
Value named(const std::map<std::string, Value>& words, const std::string& word) {
  const auto found = words.find(word);
  if (found == words.end()) throw failure{fmt::format("unknown word \"{}\"", word)};
  return found->second;
}

std::vector<int> parse_processes(std::string_view text) {
  std::vector<int> processes;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    int process = 0;
    std::from_chars(text.data(), text.data() + comma, process);
    processes.push_back(process);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return processes;
}

void run(int argc, char** argv) {
  bench::subscribers::options listening;
  bench::publisher::options publish;
  std::vector<int> server;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--target") {
      listening.target = publish.target = bench::parse_address(value);
      listening.host = publish.host = value;
    } else if (name == "--subscribe") {
      using bench::protocol;
      listening.speaks = named<protocol>(
          {{"raw", protocol::raw}, {"websocket", protocol::websocket}, {"stream", protocol::stream}, {"wait", protocol::wait}}, value);
    } else if (name == "--subscribe-path") {
      listening.path = value;
    } else if (name == "--publish") {
      using bench::publishing;
      publish.speaks =
          named<bench::publishing>({{"raw", publishing::raw}, {"websocket", publishing::websocket}, {"post", publishing::post}}, value);
    } else if (name == "--publish-path") {
      publish.path = value;
    } else if (name == "--publish-subprotocol") {
      publish.subprotocol = value;
    } else if (name == "--publish-before") {
      publish.before = value;
    } else if (name == "--publish-after") {
      publish.after = value;
    } else if (name == "--size") {
      publish.size = std::stoul(value);
    } else if (name == "--server") {
      server = parse_processes(value);
    } else {
      throw failure{fmt::format("unknown option {}", name)};
    }
  }

  bench::generator load{std::move(listening), std::move(publish), std::move(server)};
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words{line};
    std::string command;
    double first = 0;
    double seconds = 0;
    words >> command >> first >> seconds;
    std::string answer;
    if (command == "connect")
      answer = load.connect(static_cast<std::size_t>(first));
    else if (command == "disconnect")
      answer = load.disconnect();
    else if (command == "closed")
      answer = load.closed(static_cast<std::uint64_t>(first), seconds);
    else if (command == "open")
      answer = load.open(first, seconds);
    else if (command == "idle")
      answer = load.idle(first);
    else
      throw failure{fmt::format("unknown command \"{}\"", line)};
    fmt::print("{}\n", answer);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "bench_load: {}\n", problem.what());
    return 1;
  }
}
