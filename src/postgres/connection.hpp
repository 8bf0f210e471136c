#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "postgres/server_error.hpp"

namespace postbus::postgres {

namespace asio = boost::asio;

/** The rows of one statement. Movable; views stay valid while it lives. */
class rows {
public:
  rows();
  explicit rows(void* pg_result);  ///< takes over a PGresult
  rows(rows&&) noexcept;
  rows& operator=(rows&&) noexcept;
  ~rows();

  std::size_t size() const;
  std::size_t columns() const;
  /** Column name; `column` < columns(). */
  std::string_view name(std::size_t column) const;
  /** Text of a value, nullopt for NULL; `row` < size(), `column` < columns(). */
  std::optional<std::string_view> get(std::size_t row, std::size_t column) const;
  /** As get, for values the statement cannot return as NULL; an empty view otherwise. */
  std::string_view text(std::size_t row, std::size_t column) const;
  bool is_true(std::size_t row, std::size_t column) const { return text(row, column) == "t"; }

private:
  struct clear {
    void operator()(void* pg_result) const;
  };
  std::unique_ptr<void, clear> held_;
};

/** A plain NOTIFY as it arrived. Views are valid during the callback only. */
struct notification {
  std::string_view channel;
  std::string_view payload;
};

struct connect_options {
  std::string conninfo;                        ///< URL or keyword form; secrets in it are never logged
  std::string application_name{"postbus"};
  bool replication{};                          ///< replication=database: simple protocol only
  std::string session_options{};               ///< goes to libpq's `options`, e.g. "-c datestyle=ISO"
  steady::duration deadline{std::chrono::seconds{10}};
  bool own_search_path{};  ///< keeps the role's, for SQL that is a user's own; statements of ours run under pg_catalog alone
};

/** One parameter: nullopt is NULL. */
using parameter = std::optional<std::string_view>;

/**
 * One PostgreSQL session over libpq's non-blocking calls, driven by Asio. Owned by one coroutine at a time and used on
 * its executor only (one thread, or a strand); a call in progress holds the session, and only wake() and close() may be
 * called meanwhile. Arguments that are views must live until the call has ended. Every call takes a deadline; a call that
 * fails for any reason but a refused statement (errc::database) or an argument that cannot be sent
 * (errc::invalid_argument) leaves the session closed: open another.
 * libpq 15 has no way to cancel a statement without blocking, so a deadline that passes closes the session, and the
 * statement's outcome is unknown. TCP keep-alive and tcp_user_timeout are set on every session (the URL may set others),
 * so that a half-open socket with data on its way is noticed within seconds.
 * Statements find nothing by its bare name but what stands in pg_catalog, whatever the role's search_path is: who may create
 * functions or operators in a schema of it cannot make our statements call them. Behind a transaction pooler the server's
 * sessions are others' as well, and the path is set for each transaction.
 * Host names are looked up on Asio's resolver thread, not by libpq, which would block.
 * Source: PostgreSQL manual, "Asynchronous Command Processing", "Pipeline Mode", "Functions Associated with the COPY Command".
 */
class connection {
public:
  /** Runs on the coroutine's executor. errc::invalid_argument: the URL is malformed; errc::unavailable, errc::timed_out. */
  static asio::awaitable<result<connection>> open(connect_options options);

  connection(connection&&) noexcept;
  connection& operator=(connection&&) noexcept;
  ~connection();  ///< closes the socket without waiting

  /** Runs one statement with bound parameters (extended protocol). Of a refused one sqlstate(error) tells the SQLSTATE. */
  asio::awaitable<result<rows>> query(std::string_view sql, std::span<const parameter> parameters, steady::duration deadline);
  /**
   * As query, under the role's own search_path: for names of tables as a user gives them. All else in the statement must be
   * written with its schema.
   */
  asio::awaitable<result<rows>> query_in_own_path(std::string_view sql, std::span<const parameter> parameters, steady::duration deadline);
  /** Runs one or more statements without parameters (simple protocol); the last one's rows. Needed on replication sessions. */
  asio::awaitable<result<rows>> execute(std::string_view sql, steady::duration deadline);
  /**
   * Runs several statements in one round trip (pipeline mode). The results stand in statement order. Each statement is a
   * transaction of its own, unless it shares that of the next; a refused statement undoes its own transaction only, whose
   * other statements fail with errc::conflict. A refusal at commit is the result of the transaction's last statement.
   */
  struct statement {
    std::string_view sql;
    std::span<const parameter> parameters;
    bool with_next{};  ///< runs in one transaction with the statement after it
  };
  asio::awaitable<result<std::vector<result<rows>>>> pipeline(std::span<const statement> statements, steady::duration deadline);

  /** Called for each NOTIFY that arrives, from within query, execute, pipeline and wait_notifications. */
  void on_notification(std::function<void(const notification&)> handler);
  /** Waits until the socket has something or the deadline passes (errc::timed_out, the session stays usable), then delivers what arrived. */
  asio::awaitable<result<>> wait_notifications(steady::duration deadline);
  /** Makes a wait_notifications or wait_copy_data in progress, or else the next one, return success at once. */
  void wake();

  /** For a session between calls: takes in what arrived meanwhile. False, and closed, when the server has ended it. Does not wait. */
  bool check_idle();

  // COPY … TO STDOUT: copy_out, then take_row and wait_row in turn until the end, then end_copy.
  /**
   * Sends the statement; errc::database when it is refused, and the session stays usable. The server says nothing before it
   * has 8 kB of rows or all of them: the deadline is for those.
   */
  asio::awaitable<result<>> copy_out(std::string_view sql, steady::duration deadline);
  /** One row of the copy, or why there is none. */
  struct copied_row {
    enum class what {
      row,
      none_yet,  ///< await wait_row
      end,  ///< await end_copy, which says whether all rows came
    } is{};
    std::string_view text{};  ///< in COPY's text format, with the line end; libpq's memory, valid until the next call
  };
  /** Takes the next row that is already here without waiting. Fails only when the session breaks. */
  result<copied_row> take_row();
  /** Waits until take_row may have more, or the deadline passes (errc::timed_out, the session is closed). Suspends now and then however fast rows come. */
  asio::awaitable<result<>> wait_row(steady::duration deadline);
  /** After the end: an error when the server broke the copy off (the session stays usable where the code is errc::database). */
  asio::awaitable<result<>> end_copy(steady::duration deadline);

  // COPY BOTH, after execute("START_REPLICATION …") returned.
  /** Takes the next CopyData message that is already here without waiting; an empty optional when there is none. The view is valid until the next call. */
  result<std::optional<std::string_view>> take_copy_data();
  /**
   * Waits until take_copy_data may have more, or the deadline passes (errc::timed_out, the session stays usable). While
   * data pours in it returns without suspending a few times in a row, then lets the loop turn.
   */
  asio::awaitable<result<>> wait_copy_data(steady::duration deadline);
  /** Sends one CopyData message and flushes it. */
  asio::awaitable<result<>> put_copy_data(std::string_view bytes, steady::duration deadline);

  int server_version() const;  ///< 150020 for 15.20
  int backend_pid() const;
  /** A pooler stands between, and the server runs statements in another process than backend_pid(). Not known where own_search_path is kept. */
  bool pooled() const;
  int socket() const;
  bool is_open() const;
  void close();

private:
  struct impl;
  explicit connection(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

/** `name` as a quoted identifier. */
std::string quote_identifier(std::string_view name);
/** `text` as a quoted literal (E'' form where it holds backslashes). */
std::string quote_literal(std::string_view text);

}  // namespace postbus::postgres
