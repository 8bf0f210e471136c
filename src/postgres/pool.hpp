#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstddef>
#include <memory>

#include "postgres/connection.hpp"

namespace postbus::postgres {

struct pool_options {
  /**
   * Where no transaction pooler stands between, session_options "-c client_connection_check_interval=2s" is worth having: it
   * ends statements whose session was closed at its deadline, which would keep a connection slot for as long as they hang.
   */
  connect_options session;
  std::size_t sessions{4};
  std::size_t waiters{1000};  ///< that may wait for a session; one more gets errc::too_many
};

/**
 * A few sessions, opened when first needed and lent to one coroutine at a time, first come first served. A session that
 * broke is not lent again; one that the server ended while nobody used it is found out before it is lent. While sessions
 * cannot be opened, acquire() fails at once, with the last reason, except for one attempt after each back-off.
 * All members, and the leases, on the executor's thread only. A lease may outlive the pool.
 */
class pool {
  struct state;

public:
  /** A borrowed session; its end gives it back. */
  class lease {
  public:
    lease() = default;  ///< of nothing
    lease(lease&&) noexcept;
    lease& operator=(lease&&) noexcept;
    ~lease();
    connection& operator*() const { return *session_; }
    connection* operator->() const { return session_.get(); }

  private:
    friend class pool;
    lease(std::shared_ptr<state> from, std::unique_ptr<connection> session);
    std::shared_ptr<state> from_;
    std::unique_ptr<connection> session_;
  };

  pool(asio::any_io_executor executor, pool_options options);
  pool(const pool&) = delete;
  pool& operator=(const pool&) = delete;
  ~pool();

  /** Waits at most `deadline`: errc::timed_out, errc::too_many, or why a session could not be opened (errc::unavailable). */
  asio::awaitable<result<lease>> acquire(steady::duration deadline);
  /** Fails those who wait, closes idle sessions, and each lent one when it comes back. acquire() fails from now on: a poster on it must have ended. */
  void close();

  std::size_t idle() const;
  /** Idle, lent and being opened. */
  std::size_t sessions() const;

private:
  std::shared_ptr<state> state_;
};

}  // namespace postbus::postgres
