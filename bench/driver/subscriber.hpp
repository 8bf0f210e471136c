#pragma once
#include <netinet/in.h>
#include <sys/epoll.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "driver/marker.hpp"

namespace bench {

enum class protocol {
  raw,        ///< sends "S", is answered "+"; then bytes
  websocket,  ///< a GET with Upgrade, answered 101
  stream,     ///< a GET, answered 200 and a body without end (SSE)
  wait,       ///< a GET that is answered when there is something: connected once it is sent
};

/** What a turn of the loop found. */
struct turn_result {
  bool publisher_ready{};
  std::uint64_t read{};  ///< reads that brought bytes
};

/**
 * N subscribers on one epoll instance, in one thread. It knows no protocol beyond the opening: it looks for markers in
 * whatever arrives, and answers WebSocket pings that stand alone.
 */
class subscribers {
public:
  struct options {
    sockaddr_in target{};
    protocol speaks{protocol::websocket};
    std::string path{"/"};      ///< "{}" is replaced by the subscriber's number
    std::string host{"localhost"};
    std::size_t opening{256};   ///< handshakes under way at once
  };
  explicit subscribers(options chosen);
  ~subscribers();
  subscribers(const subscribers&) = delete;
  subscribers& operator=(const subscribers&) = delete;

  /** Opens `count` more; returns the seconds it took until the last was answered. */
  double connect(std::size_t count);
  void disconnect();
  std::size_t size() const { return connections_.size(); }

  /** One more socket in the same loop: readable or writable makes `publisher_ready`. */
  void add_publisher(int fd);

  /** Waits at most `wait_ns`, reads what is there and calls found(number, received_ns) for each marker. */
  template <class Found>
  turn_result turn(std::int64_t wait_ns, Found found) {
    turn_result result;
    const int ready = wait(wait_ns);
    for (int i = 0; i < ready; ++i) {
      const auto index = events_[static_cast<std::size_t>(i)].data.u64;
      if (index == publisher_index) {
        result.publisher_ready = true;
        continue;
      }
      while (read(index)) {
        ++result.read;
        const auto received = received_;
        bool any = false;
        scanner_.scan(begin_, length_, connections_[index].left, [&](std::uint64_t number) {
          any = true;
          found(number, received);
        });
        if (!any) answer_ping(index);
        if (!more_) break;
      }
    }
    return result;
  }

private:
  static constexpr std::uint64_t publisher_index = ~std::uint64_t{0};
  struct connection {
    int fd{-1};
    bool asked{};
    bool open{};
    carry left;
  };

  void begin();
  bool progress(std::size_t index);
  int wait(std::int64_t wait_ns);
  /** Reads once into the buffer, behind what the last read left over. False when there was nothing. */
  bool read(std::size_t index);
  void answer_ping(std::size_t index);

  options options_;
  int epoll_{-1};
  std::vector<connection> connections_;
  std::unordered_map<std::size_t, std::string> heads_;  ///< answers not yet whole
  std::vector<epoll_event> events_;
  std::vector<char> buffer_;
  scanner scanner_;
  const char* begin_{};
  std::size_t length_{};
  std::int64_t received_{};
  bool more_{};
};

}  // namespace bench
