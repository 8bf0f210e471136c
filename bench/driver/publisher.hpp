#pragma once
#include <netinet/in.h>

#include <cstdint>
#include <string>

namespace bench {

enum class publishing {
  raw,        ///< sends "P", then the messages' bytes
  websocket,  ///< one text frame each
  post,       ///< HTTP POST, pipelined on one connection
};

/** One publisher on one connection. It never waits: what the socket does not take stays pending. */
class publisher {
public:
  struct options {
    sockaddr_in target{};
    publishing speaks{publishing::websocket};
    std::string path{"/"};
    std::string host{"localhost"};
    std::string subprotocol;
    std::string before, after;  ///< around the message: the envelope of the server's own publish command
    std::size_t size{200};      ///< bytes of a message
  };
  explicit publisher(options chosen);
  ~publisher();
  publisher(const publisher&) = delete;
  publisher& operator=(const publisher&) = delete;

  int fd() const { return fd_; }
  /** Queues one message that carries `number`. */
  void add(std::uint64_t number);
  /** Sends what is queued, as far as the socket takes it. */
  void flush();
  /** Reads and drops the answers. */
  void drain();

private:
  options options_;
  int fd_{-1};
  std::string pending_;
};

}  // namespace bench
