// A worker of the ping-pong story in C++: hears `do job N` on channel workerB, does it, answers `job N done` on workA.
// Usage: worker [GATEWAY]   (http://127.0.0.1:7432 when left out; POSTBUS_TOKEN is sent where set)
#include <postbus/client.hpp>

#include <cstdlib>
#include <iostream>
#include <string>

int main(int argc, char** argv) try {
  const char* token = std::getenv("POSTBUS_TOKEN");
  postbus::client gateway{argc > 1 ? argv[1] : "http://127.0.0.1:7432", {.token = token ? token : ""}};

  postbus::listen_options options;
  options.on_link = [](postbus::link_state state, std::string_view why) {
    if (state == postbus::link_state::lost) std::cerr << "lost the gateway, coming back: " << why << '\n';
  };
  // Returns once the gateway has confirmed the channel: no job posted from here on is missed.
  postbus::listener jobs = gateway.listen({"workerB"}, options);
  std::cout << "worker B is listening" << std::endl;

  while (true) {
    const auto event = jobs.next(std::chrono::minutes{1});
    if (!event) continue;  // a quiet minute
    if (event->is_notice()) {
      std::cerr << "some jobs may be missing: " << event->payload << '\n';
      continue;
    }
    if (event->payload == "go home") return EXIT_SUCCESS;
    if (!event->payload.starts_with("do ")) continue;

    const std::string job = event->payload.substr(3);
    std::cout << "doing " << job << std::endl;
    gateway.post("workA", job + " done");
  }
} catch (const std::exception& failure) {
  std::cerr << "worker: " << failure.what() << '\n';
  return EXIT_FAILURE;
}
