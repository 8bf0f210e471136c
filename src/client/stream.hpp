#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "client/gateway_url.hpp"

namespace postbus::remote {

/** Ends another thread's wait on a stream. Stays signalled. signal() on any thread, also in a signal handler. */
class wakeup {
public:
  wakeup();
  wakeup(const wakeup&) = delete;
  wakeup& operator=(const wakeup&) = delete;
  ~wakeup();
  void signal() noexcept;
  /** Takes back a signal. */
  void clear() noexcept;
  int fd() const noexcept { return fd_; }

private:
  int fd_;
};

/** What a read came back with. */
struct read_outcome {
  enum class what { data, end, timed_out, woken };
  what is{what::data};
  std::size_t bytes{};
};

/**
 * One TCP connection, with TLS for https, over poll(2): every call waits until it is done, its deadline has passed, or the
 * wakeup is signalled. TLS runs over memory buffers, so that only this class touches the socket (and no SIGPIPE is raised).
 * The certificate is checked against the host's name or address. After a failed call the stream is of no use.
 * Thread safety: none.
 */
class stream {
public:
  using time_point = steady::time_point;

  /** Looks the name up and tries its addresses in turn. `wake` may be null and must outlive the stream. */
  static result<stream> connect(const gateway_url& to, const std::string& ca_file, time_point deadline, const wakeup* wake);

  stream(stream&&) noexcept;
  stream& operator=(stream&&) noexcept;
  ~stream();

  /** Some bytes into `into`. A passed deadline and a wakeup are outcomes, not errors. */
  result<read_outcome> read_some(char* into, std::size_t size, time_point deadline);
  /** All of `bytes`. errc::timed_out past the deadline; errc::io with the text "stopped" when woken. */
  result<> write_all(std::string_view bytes, time_point deadline);
  /** False when the peer has closed a connection that lay idle, or has sent something nobody asked for. */
  bool is_idle_and_open();

private:
  struct impl;
  explicit stream(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus::remote
