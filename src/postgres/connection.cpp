// A session's life. PQconnectStart and PQconnectPoll drive the handshake; before each poll the socket is taken out of the
// reactor, because libpq may close it and open another, even under the same number. From then on the socket stays
// registered until close(). Every call sends (PQflush until nothing is left, reading meanwhile, so that neither side
// waits for the other to read), waits for the socket, lets libpq read, delivers NOTIFYs, and takes what is complete.
//
// Asio never owns the socket: the descriptor is released before libpq closes it.
//
// Waits may end early (readiness.hpp): every loop asks libpq what it has and then looks at the clock.
#include "postgres/connection.hpp"

#include <libpq-fe.h>
#include <openssl/ssl.h>

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "postgres/conninfo.hpp"
#include "postgres/look_up.hpp"
#include "postgres/readiness.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

constexpr auto longest_deadline = 24h;

/** wait_copy_data does not suspend more often than this in a row: 16 kB of libpq's buffer each. */
constexpr int eager_reads = 8;

steady::time_point from_now(steady::duration d) { return steady::now() + std::clamp<steady::duration>(d, 0s, longest_deadline); }

std::string_view or_empty(const char* text) { return text ? text : std::string_view{}; }

/** libpq's messages on one line, for the log. */
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c != '\n' && c != '\t')
      line += c;
    else if (!line.empty() && line.back() != ' ')
      line += ' ';
  }
  while (line.ends_with(' ')) line.pop_back();
  return line;
}

server_message fields(const PGresult* r) {
  return {or_empty(PQresultErrorField(r, PG_DIAG_SEVERITY_NONLOCALIZED)), or_empty(PQresultErrorField(r, PG_DIAG_SQLSTATE)),
          or_empty(PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY)), or_empty(PQresultErrorField(r, PG_DIAG_MESSAGE_DETAIL)),
          or_empty(PQresultErrorField(r, PG_DIAG_MESSAGE_HINT))};
}

/** `last_words`: where the reason goes with which the server ends a session that is not running a statement. */
void take_notice(void* last_words, const PGresult* r) {
  const auto m = fields(r);
  if (m.severity == "FATAL" || m.severity == "PANIC") {
    *static_cast<std::optional<error>*>(last_words) = from_server(m);
    return;
  }
  if (m.severity == "WARNING")
    log::warning("postgres", "the server warns: [{}] {}", m.sqlstate, m.primary);
  else
    log::debug("postgres", "the server says: [{}] {}", m.sqlstate, m.primary);
}

}  // namespace

struct connection::impl {
  explicit impl(const asio::any_io_executor& executor) : ready{std::make_shared<readiness>(executor)} {}
  impl(const impl&) = delete;
  impl& operator=(const impl&) = delete;
  ~impl() { close(); }

  void close() {
    ready->close();
    if (copy_buffer) PQfreemem(std::exchange(copy_buffer, nullptr));
    if (pg) PQfinish(std::exchange(pg, nullptr));
  }

  // Failures that end the session.

  error lost() {
    auto detail = pg ? one_line(or_empty(PQerrorMessage(pg))) : std::string{};
    close();
    if (last_words) return *std::exchange(last_words, std::nullopt);
    return {errc::unavailable, "the connection to the database was lost; try again", std::move(detail)};
  }
  error late() {
    close();
    return {errc::timed_out, "the database did not answer in time; the statement may still take effect"};
  }
  error closed() const { return {errc::unavailable, "the database session is closed"}; }
  error ended_by(const PGresult* r) {
    auto e = from_server(fields(r));
    close();
    return e;
  }

  // Steps.

  void deliver() {
    while (pg) {
      const std::unique_ptr<PGnotify, decltype(&PQfreemem)> n{PQnotifies(pg), &PQfreemem};
      if (!n) return;
      if (handler) handler({.channel = n->relname, .payload = n->extra});
    }
  }
  /** Reads what is there. False when the session broke. */
  bool consume() {
    if (!pg || !PQconsumeInput(pg)) return false;
    deliver();
    return pg != nullptr;
  }
  /**
   * TLS may hold decrypted bytes that the socket's readiness does not show: of records larger than the 8 kB that libpq
   * offers room for at least. PostgreSQL 15 sends none, but later versions and proxies between do.
   */
  bool bytes_in_tls() const {
    auto* tls = static_cast<SSL*>(PQsslStruct(pg, "OpenSSL"));
    return tls && SSL_pending(tls) > 0;
  }
  asio::awaitable<void> wait_readable(steady::time_point deadline) {
    if (!bytes_in_tls()) co_await ready->wait(true, false, deadline);
  }

  asio::awaitable<result<>> connect(const connect_options& options) {
    const auto deadline = from_now(options.deadline);
    auto words = conninfo::from(options);
    if (!words) co_return words.error();
    std::map<std::string, std::vector<std::string>, std::less<>> addresses;
    for (const auto& name : words->unresolved()) {
      auto found = co_await look_up(name, deadline);
      if (!found) co_return found.error();
      addresses.emplace(name, std::move(*found));
    }
    if (!addresses.empty()) words->use_addresses(addresses);
    pg = words->start();
    if (!pg) co_return error{errc::internal, "out of memory"};
    PQsetNoticeReceiver(pg, &take_notice, &last_words);
    PQsetErrorVerbosity(pg, PQERRORS_VERBOSE);  // with the SQLSTATE: a login that fails leaves nothing but its message
    auto wants = PQstatus(pg) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    while (wants != PGRES_POLLING_OK) {
      if (wants == PGRES_POLLING_FAILED) {
        const bool password = PQconnectionNeedsPassword(pg);
        auto e = from_failed_login(or_empty(PQerrorMessage(pg)));
        if (password) e.text = "the database wants a password: put it into the URL, PGPASSWORD or ~/.pgpass";
        close();
        co_return e;
      }
      if (steady::now() >= deadline) {
        close();
        co_return error{errc::timed_out, "the database did not accept a session in time"};
      }
      ready->assign(PQsocket(pg));
      co_await ready->wait(wants == PGRES_POLLING_READING, wants == PGRES_POLLING_WRITING, deadline);
      if (!pg) co_return closed();
      ready->release();
      if (steady::now() < deadline) wants = PQconnectPoll(pg);
    }
    if (PQsetnonblocking(pg, 1) != 0) co_return lost();
    ready->assign(PQsocket(pg));
    co_return result<>{};
  }

  /** Sends all that libpq holds, reading meanwhile. */
  asio::awaitable<result<>> flush(steady::time_point deadline) {
    for (;;) {
      if (!pg) co_return closed();
      const int left = PQflush(pg);
      if (left < 0) co_return lost();
      if (left == 0) co_return result<>{};
      if (steady::now() >= deadline) co_return late();
      if (!bytes_in_tls()) co_await ready->wait(true, true, deadline);
      if (!pg) co_return closed();
      if (!consume()) co_return pg ? lost() : closed();
    }
  }

  using held_result = std::unique_ptr<PGresult, decltype(&PQclear)>;

  /** The next result of what was sent; null at its end. */
  asio::awaitable<result<held_result>> next(steady::time_point deadline) {
    while (pg && PQisBusy(pg)) {
      if (steady::now() >= deadline) co_return late();
      co_await wait_readable(deadline);
      if (!pg) break;
      // A session that the server ended breaks here, but the server's reason may already stand in libpq's buffer.
      if (!consume() && (!pg || PQisBusy(pg))) co_return pg ? lost() : closed();
    }
    if (!pg) co_return closed();
    co_return held_result{PQgetResult(pg), &PQclear};
  }

  /** What a PGresult means; the session is closed where it cannot go on. */
  result<rows> judge(held_result r) {
    switch (PQresultStatus(r.get())) {
      case PGRES_TUPLES_OK:
      case PGRES_COMMAND_OK:
      case PGRES_EMPTY_QUERY:
      case PGRES_COPY_BOTH: return rows{r.release()};
      case PGRES_PIPELINE_ABORTED: return error{errc::conflict, "not run: another statement of its transaction was refused"};
      case PGRES_FATAL_ERROR: {
        if (or_empty(PQresultErrorField(r.get(), PG_DIAG_SQLSTATE)).empty()) return lost();
        auto refused = from_server(fields(r.get()));
        if (refused.code != errc::database) close();
        return refused;
      }
      default: close(); return error{errc::internal, "a statement of this kind cannot be run here"};
    }
  }

  /** Takes results up to their end; the first failure, or the last result. */
  asio::awaitable<result<rows>> last_result(steady::time_point deadline) {
    result<rows> last{rows{}};
    for (;;) {
      auto taken = co_await next(deadline);
      if (!taken) co_return taken.error();
      if (!*taken) co_return last;
      const bool copying = PQresultStatus(taken->get()) == PGRES_COPY_BOTH;
      auto judged = judge(std::move(*taken));
      if (!pg || copying) co_return judged;
      if (last) last = std::move(judged);
    }
  }

  /** libpq takes texts up to their first NUL, so one inside is refused and not cut off. */
  static result<> check(std::string_view sql, std::span<const parameter> parameters) {
    const auto cut = [](const parameter& p) { return p && p->contains('\0'); };
    if (!sql.contains('\0') && std::ranges::none_of(parameters, cut)) return {};
    return error{errc::invalid_argument, "PostgreSQL text cannot hold a NUL byte"};
  }

  /** Hands one statement that passed check() to libpq. */
  result<> send(std::string_view sql, std::span<const parameter> parameters) {
    std::size_t bytes = sql.size() + 1;
    for (const auto& p : parameters) bytes += p ? p->size() + 1 : 0;
    terminated.clear();
    terminated.reserve(bytes);
    values.clear();
    const auto append = [this](std::string_view text) {
      const char* at = terminated.data() + terminated.size();
      terminated.append(text).push_back('\0');
      return at;
    };
    const char* command = append(sql);
    for (const auto& p : parameters) values.push_back(p ? append(*p) : nullptr);
    const int sent = PQsendQueryParams(pg, command, static_cast<int>(values.size()), nullptr, values.data(), nullptr, nullptr, 0);
    if (terminated.capacity() > 1u << 20) terminated = {};
    if (!sent) return lost();
    return {};
  }

  asio::awaitable<result<rows>> query(std::string_view sql, std::span<const parameter> parameters, steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    if (auto fit = check(sql, parameters); !fit) co_return fit.error();
    if (auto sent = send(sql, parameters); !sent) co_return sent.error();
    if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
    co_return co_await last_result(deadline);
  }

  asio::awaitable<result<rows>> execute(std::string_view sql, steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    if (auto fit = check(sql, {}); !fit) co_return fit.error();
    if (!PQsendQuery(pg, std::string{sql}.c_str())) co_return lost();
    if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
    co_return co_await last_result(deadline);
  }

  asio::awaitable<result<std::vector<result<rows>>>> pipeline(std::span<const statement> statements, steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    for (const auto& one : statements)
      if (auto fit = check(one.sql, one.parameters); !fit) co_return fit.error();
    if (!PQenterPipelineMode(pg)) co_return lost();
    const auto ends_transaction = [&](std::size_t i) { return i + 1 == statements.size() || !statements[i].with_next; };
    for (std::size_t i = 0; i < statements.size(); ++i) {
      if (auto sent = send(statements[i].sql, statements[i].parameters); !sent) co_return sent.error();
      if (ends_transaction(i) && !PQpipelineSync(pg)) co_return lost();
    }
    if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
    std::vector<result<rows>> results;
    results.reserve(statements.size());
    for (std::size_t i = 0; i < statements.size(); ++i) {
      auto one = co_await last_result(deadline);
      if (!pg) co_return one.error();
      results.push_back(std::move(one));
      if (!ends_transaction(i)) continue;
      auto committed = co_await take_sync(deadline);
      if (!pg) co_return committed.error();
      if (!committed) results[i] = committed.error();
    }
    if (!PQexitPipelineMode(pg)) co_return lost();
    co_return results;
  }

  /** The end of a pipeline's transaction; an error when its commit was refused. */
  asio::awaitable<result<>> take_sync(steady::time_point deadline) {
    result<> committed;
    for (;;) {
      auto taken = co_await next(deadline);
      if (!taken) co_return taken.error();
      if (!*taken) continue;
      if (PQresultStatus(taken->get()) == PGRES_PIPELINE_SYNC) co_return committed;
      auto judged = judge(std::move(*taken));
      if (!judged) committed = judged.error();
      if (!pg) co_return committed;
    }
  }

  bool check_idle() {
    // The reason and the end of the stream may take one read each.
    for (int i = 0; i < 2 && pg; ++i)
      if (!consume() || last_words) close();
    return pg != nullptr;
  }

  asio::awaitable<result<>> wait_notifications(steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    deliver();  // what came in one read with the end of the last command stands in libpq's buffer, and the socket will not tell
    if (!pg) co_return closed();
    if (std::exchange(woken, false)) co_return result<>{};
    co_await wait_readable(deadline);
    if (!pg) co_return closed();
    if (!consume()) co_return pg ? lost() : closed();
    if (std::exchange(woken, false) || steady::now() < deadline) co_return result<>{};
    co_return error{errc::timed_out, "nothing arrived in time"};
  }

  result<bool> fetch_copy_data() {
    if (copy_buffer) PQfreemem(std::exchange(copy_buffer, nullptr));
    const int size = PQgetCopyData(pg, &copy_buffer, 1);
    if (size > 0) {
      copy_size = static_cast<std::size_t>(size);
      return true;
    }
    if (size == 0) return false;
    if (size == -2 || PQisBusy(pg)) return lost();
    const held_result end{PQgetResult(pg), &PQclear};
    if (PQresultStatus(end.get()) == PGRES_FATAL_ERROR && PQresultErrorField(end.get(), PG_DIAG_SQLSTATE)) {
      auto e = ended_by(end.get());
      e.code = errc::unavailable;
      return e;
    }
    close();
    return error{errc::unavailable, "the server ended the stream"};
  }

  result<std::optional<std::string_view>> take_copy_data() {
    if (!pg) return closed();
    if (!std::exchange(copy_fetched, false)) {
      auto fetched = fetch_copy_data();
      if (!fetched) return fetched.error();
      if (!*fetched) return std::optional<std::string_view>{};
    }
    return std::optional{std::string_view{copy_buffer, copy_size}};
  }

  asio::awaitable<result<>> wait_copy_data(steady::duration within) {
    if (!pg) co_return closed();
    if (copy_fetched || std::exchange(woken, false)) co_return result<>{};
    if (eager < eager_reads) {
      ++eager;
      if (!consume()) co_return pg ? lost_or_ended() : result<>{closed()};
      auto fetched = fetch_copy_data();
      if (!fetched) co_return fetched.error();
      copy_fetched = *fetched;
      if (copy_fetched) co_return result<>{};
    }
    eager = 0;
    const auto deadline = from_now(within);
    co_await wait_readable(deadline);
    if (!pg) co_return closed();
    if (!consume()) co_return pg ? lost_or_ended() : result<>{closed()};
    if (std::exchange(woken, false) || steady::now() < deadline) co_return result<>{};
    co_return error{errc::timed_out, "nothing arrived in time"};
  }

  /** The socket broke; messages before that, and the server's reason, may still stand in libpq's buffer. */
  result<> lost_or_ended() {
    auto fetched = fetch_copy_data();
    if (!fetched) return fetched.error();
    if (!*fetched) return lost();
    copy_fetched = true;
    return {};
  }

  asio::awaitable<result<>> put_copy_data(std::string_view bytes, steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    if (PQputCopyData(pg, bytes.data(), static_cast<int>(bytes.size())) != 1) co_return lost();
    co_return co_await flush(deadline);
  }

  asio::awaitable<result<>> copy_out(std::string_view sql, steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    if (auto fit = check(sql, {}); !fit) co_return fit.error();
    if (auto sent = send(sql, {}); !sent) co_return sent.error();
    if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
    auto first = co_await next(deadline);
    if (!first) co_return first.error();
    if (*first && PQresultStatus(first->get()) == PGRES_COPY_OUT) co_return result<>{};
    auto judged = judge(std::move(*first));
    if (pg) {
      auto rest = co_await last_result(deadline);
      if (judged && !rest) judged = rest.error();
    }
    if (!judged) co_return judged.error();
    close();
    co_return error{errc::internal, "the statement is no COPY … TO STDOUT"};
  }

  result<copied_row> take_row() {
    if (!pg) return closed();
    if (copy_buffer) PQfreemem(std::exchange(copy_buffer, nullptr));
    const int size = PQgetCopyData(pg, &copy_buffer, 1);
    if (size > 0) return copied_row{copied_row::what::row, {copy_buffer, static_cast<std::size_t>(size)}};
    if (size == 0 && broken) return lost();
    if (size == 0) return copied_row{copied_row::what::none_yet};
    if (size == -1) return copied_row{copied_row::what::end};
    return lost();
  }

  asio::awaitable<result<>> wait_row(steady::duration within) {
    if (!pg) co_return closed();
    const auto deadline = from_now(within);
    // A read takes what libpq's buffer has room for; readiness is asked for only when reading brought nothing lately.
    if (eager < eager_reads) {
      ++eager;
    } else {
      eager = 0;
      co_await wait_readable(deadline);
      if (!pg) co_return closed();
      if (steady::now() >= deadline) co_return late();
    }
    // What came before the session broke, and the server's reason, may still stand in libpq's buffer: take_row looks there first.
    broken = !consume();
    if (!pg) co_return closed();
    co_return result<>{};
  }

  asio::awaitable<result<>> end_copy(steady::duration within) {
    if (!pg) co_return closed();
    auto ended = co_await last_result(from_now(within));
    if (!ended) co_return ended.error();
    co_return result<>{};
  }

  PGconn* pg{};
  std::shared_ptr<readiness> ready;
  std::function<void(const notification&)> handler;
  std::optional<error> last_words;
  std::string terminated;
  std::vector<const char*> values;
  char* copy_buffer{};
  std::size_t copy_size{};
  bool copy_fetched{};  ///< wait_copy_data has taken the next message already
  bool broken{};  ///< found while copying: nothing more can be read
  int eager{};
  bool woken{};
};

connection::connection(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
connection::connection(connection&&) noexcept = default;
connection& connection::operator=(connection&&) noexcept = default;
connection::~connection() = default;

asio::awaitable<result<connection>> connection::open(connect_options options) {
  const auto executor = co_await asio::this_coro::executor;
  auto made = std::make_unique<impl>(executor);
  auto connected = co_await made->connect(options);
  if (!connected) co_return connected.error();
  co_return connection{std::move(made)};
}

asio::awaitable<result<rows>> connection::query(std::string_view sql, std::span<const parameter> parameters, steady::duration deadline) {
  return impl_->query(sql, parameters, deadline);
}
asio::awaitable<result<rows>> connection::execute(std::string_view sql, steady::duration deadline) { return impl_->execute(sql, deadline); }
asio::awaitable<result<std::vector<result<rows>>>> connection::pipeline(std::span<const statement> statements, steady::duration deadline) {
  return impl_->pipeline(statements, deadline);
}
void connection::on_notification(std::function<void(const notification&)> handler) { impl_->handler = std::move(handler); }
asio::awaitable<result<>> connection::wait_notifications(steady::duration deadline) { return impl_->wait_notifications(deadline); }
bool connection::check_idle() { return impl_->check_idle(); }
void connection::wake() {
  impl_->woken = true;
  impl_->ready->cancel();
}
asio::awaitable<result<>> connection::copy_out(std::string_view sql, steady::duration deadline) { return impl_->copy_out(sql, deadline); }
result<connection::copied_row> connection::take_row() { return impl_->take_row(); }
asio::awaitable<result<>> connection::wait_row(steady::duration deadline) { return impl_->wait_row(deadline); }
asio::awaitable<result<>> connection::end_copy(steady::duration deadline) { return impl_->end_copy(deadline); }
result<std::optional<std::string_view>> connection::take_copy_data() { return impl_->take_copy_data(); }
asio::awaitable<result<>> connection::wait_copy_data(steady::duration deadline) { return impl_->wait_copy_data(deadline); }
asio::awaitable<result<>> connection::put_copy_data(std::string_view bytes, steady::duration deadline) {
  return impl_->put_copy_data(bytes, deadline);
}
int connection::server_version() const { return impl_->pg ? PQserverVersion(impl_->pg) : 0; }
int connection::backend_pid() const { return impl_->pg ? PQbackendPID(impl_->pg) : 0; }
int connection::socket() const { return impl_->pg ? PQsocket(impl_->pg) : -1; }
bool connection::is_open() const { return impl_ && impl_->pg; }
void connection::close() { impl_->close(); }

}  // namespace postbus::postgres
