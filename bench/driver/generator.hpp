#pragma once
#include <memory>
#include <string>
#include <vector>

#include "driver/publisher.hpp"
#include "driver/subscriber.hpp"

namespace bench {

/** The phases of a fan-out measurement; each answers one line of JSON. */
class generator {
public:
  generator(subscribers::options listening, publisher::options publishing, std::vector<int> server);

  std::string connect(std::size_t count);
  std::string disconnect();
  /** Closed loop: at most `in_flight` messages under way for all subscribers together. */
  std::string closed(std::uint64_t in_flight, double seconds);
  /** Open loop: `rate` messages a second whatever becomes of them; latency counts from the time each was due. */
  std::string open(double rate, double seconds);
  /** Nothing is published; pings are answered. */
  std::string idle(double seconds);

private:
  publisher& publishes();
  void settle();
  void pump(std::int64_t wait_ns);
  bool drain(std::uint64_t expected);

  subscribers subscribers_;
  publisher::options publishing_;
  std::unique_ptr<publisher> publisher_;
  std::vector<int> server_;
  std::uint64_t delivered_{};
};

}  // namespace bench
