#pragma once
#include <libpq-fe.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "postgres/connection.hpp"
#include "postgres/readiness.hpp"

namespace postbus::postgres {

/** A session's insides, for connection.cpp and connection_copy.cpp. The public calls of the same names say what they do. */
struct connection::impl {
  explicit impl(const asio::any_io_executor& executor) : ready{std::make_shared<readiness>(executor)} {}
  impl(const impl&) = delete;
  impl& operator=(const impl&) = delete;
  ~impl() { close(); }

  void close();

  // Failures that end the session.

  error lost();
  error late();
  error closed() const { return {errc::unavailable, "the database session is closed"}; }
  error ended_by(const PGresult* r);

  // Steps.

  void deliver();
  /** Reads what is there. False when the session broke. */
  bool consume();
  /**
   * TLS may hold decrypted bytes that the socket's readiness does not show: of records larger than the 8 kB that libpq
   * offers room for at least. PostgreSQL 15 sends none, but later versions and proxies between do.
   */
  bool bytes_in_tls() const;
  asio::awaitable<void> wait_readable(steady::time_point deadline);

  asio::awaitable<result<>> connect(const connect_options& options);

  // The search path: connection_path.cpp.

  /** Before the first other statement: pins the path for the session, or finds that it must be for each transaction. */
  asio::awaitable<result<>> pin_search_path(steady::time_point deadline);
  /** The next statement begins a transaction that must pin the path itself. */
  bool must_pin() const;
  asio::awaitable<result<rows>> query_in_own_path(std::string_view sql, std::span<const parameter> parameters, steady::duration within);

  /** Sends all that libpq holds, reading meanwhile. */
  asio::awaitable<result<>> flush(steady::time_point deadline);

  using held_result = std::unique_ptr<PGresult, decltype(&PQclear)>;

  /** The next result of what was sent; null at its end. */
  asio::awaitable<result<held_result>> next(steady::time_point deadline);

  /** What a PGresult means; the session is closed where it cannot go on. */
  result<rows> judge(held_result r);

  /** Takes results up to their end; the first failure, or the last result. */
  asio::awaitable<result<rows>> last_result(steady::time_point deadline);

  /** libpq takes texts up to their first NUL, so one inside is refused and not cut off. */
  static result<> check(std::string_view sql, std::span<const parameter> parameters);

  /** Hands one statement that passed check() to libpq. */
  result<> send(std::string_view sql, std::span<const parameter> parameters);

  asio::awaitable<result<rows>> query(std::string_view sql, std::span<const parameter> parameters, steady::duration within);
  asio::awaitable<result<rows>> execute(std::string_view sql, steady::duration within);
  asio::awaitable<result<std::vector<result<rows>>>> pipeline(std::span<const statement> statements, steady::duration within);

  /** The end of a pipeline's transaction; an error when its commit was refused. */
  asio::awaitable<result<>> take_sync(steady::time_point deadline);

  bool check_idle();
  asio::awaitable<result<>> wait_notifications(steady::duration within);

  // COPY: connection_copy.cpp.

  result<bool> fetch_copy_data();
  result<std::optional<std::string_view>> take_copy_data();
  asio::awaitable<result<>> wait_copy_data(steady::duration within);
  /** The socket broke; messages before that, and the server's reason, may still stand in libpq's buffer. */
  result<> lost_or_ended();
  asio::awaitable<result<>> put_copy_data(std::string_view bytes, steady::duration within);
  asio::awaitable<result<>> copy_out(std::string_view sql, steady::duration within);
  result<copied_row> take_row();
  asio::awaitable<result<>> wait_row(steady::duration within);
  asio::awaitable<result<>> end_copy(steady::duration within);

  PGconn* pg{};
  std::shared_ptr<readiness> ready;
  std::function<void(const notification&)> handler;
  std::optional<error> last_words;
  std::string terminated;
  std::vector<const char*> values;
  char* copy_buffer{};
  std::size_t copy_size{};
  bool copy_fetched{};  ///< wait_copy_data has taken the next message already
  bool pooled{};
  bool broken{};  ///< found while copying: nothing more can be read
  int eager{};
  bool woken{};
};

/** The statement that pins the search path for its transaction, with a semicolon. */
std::string_view pin_transaction();

/** No deadline is later than a day from now, so that none overflows. */
inline steady::time_point deadline_after(steady::duration d) {
  using namespace std::chrono_literals;
  return steady::now() + std::clamp<steady::duration>(d, 0s, 24h);
}

}  // namespace postbus::postgres
