// A session's life. PQconnectStart and PQconnectPoll drive the handshake; before each poll the socket is taken out of the
// reactor, because libpq may close it and open another, even under the same number. From then on the socket stays
// registered until close(). Every call sends (PQflush until nothing is left, reading meanwhile, so that neither side
// waits for the other to read), waits for the socket, lets libpq read, delivers NOTIFYs, and takes what is complete.
//
// Asio never owns the socket: the descriptor is released before libpq closes it.
//
// Waits may end early (readiness.hpp): every loop asks libpq what it has and then looks at the clock.
#include "postgres/connection.hpp"

#include <openssl/ssl.h>

#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "postgres/connection_impl.hpp"
#include "postgres/conninfo.hpp"
#include "postgres/look_up.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;

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

void connection::impl::close() {
  ready->close();
  if (copy_buffer) PQfreemem(std::exchange(copy_buffer, nullptr));
  if (pg) PQfinish(std::exchange(pg, nullptr));
}

error connection::impl::lost() {
  auto detail = pg ? one_line(or_empty(PQerrorMessage(pg))) : std::string{};
  close();
  if (last_words) return *std::exchange(last_words, std::nullopt);
  return {errc::unavailable, "the connection to the database was lost; try again", std::move(detail)};
}

error connection::impl::late() {
  close();
  return {errc::timed_out, "the database did not answer in time; the statement may still take effect"};
}

error connection::impl::ended_by(const PGresult* r) {
  auto e = from_server(fields(r));
  close();
  return e;
}

void connection::impl::deliver() {
  while (pg) {
    const std::unique_ptr<PGnotify, decltype(&PQfreemem)> n{PQnotifies(pg), &PQfreemem};
    if (!n) return;
    if (handler) handler({.channel = n->relname, .payload = n->extra});
  }
}

bool connection::impl::consume() {
  if (!pg || !PQconsumeInput(pg)) return false;
  deliver();
  return pg != nullptr;
}

bool connection::impl::bytes_in_tls() const {
  auto* tls = static_cast<SSL*>(PQsslStruct(pg, "OpenSSL"));
  return tls && SSL_pending(tls) > 0;
}

asio::awaitable<void> connection::impl::wait_readable(steady::time_point deadline) {
  if (!bytes_in_tls()) co_await ready->wait(true, false, deadline);
}

asio::awaitable<result<>> connection::impl::connect(const connect_options& options) {
  const auto deadline = deadline_after(options.deadline);
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
  if (options.own_search_path) co_return result<>{};
  co_return co_await pin_search_path(deadline);
}

asio::awaitable<result<>> connection::impl::flush(steady::time_point deadline) {
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

asio::awaitable<result<connection::impl::held_result>> connection::impl::next(steady::time_point deadline) {
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

result<rows> connection::impl::judge(held_result r) {
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

asio::awaitable<result<rows>> connection::impl::last_result(steady::time_point deadline) {
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

result<> connection::impl::check(std::string_view sql, std::span<const parameter> parameters) {
  const auto cut = [](const parameter& p) { return p && p->contains('\0'); };
  if (!sql.contains('\0') && std::ranges::none_of(parameters, cut)) return {};
  return error{errc::invalid_argument, "PostgreSQL text cannot hold a NUL byte"};
}

result<> connection::impl::send(std::string_view sql, std::span<const parameter> parameters) {
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

asio::awaitable<result<rows>> connection::impl::query(std::string_view sql, std::span<const parameter> parameters,
                                                      steady::duration within) {
  if (!pg) co_return closed();
  if (must_pin()) {
    const statement alone[] = {{.sql = sql, .parameters = parameters}};
    auto done = co_await pipeline(alone, within);
    if (!done) co_return done.error();
    co_return std::move(done->front());
  }
  const auto deadline = deadline_after(within);
  if (auto fit = check(sql, parameters); !fit) co_return fit.error();
  if (auto sent = send(sql, parameters); !sent) co_return sent.error();
  if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
  co_return co_await last_result(deadline);
}

asio::awaitable<result<rows>> connection::impl::execute(std::string_view sql, steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
  if (auto fit = check(sql, {}); !fit) co_return fit.error();
  std::string text{must_pin() ? pin_transaction() : std::string_view{}};
  text += sql;
  if (!PQsendQuery(pg, text.c_str())) co_return lost();
  if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
  co_return co_await last_result(deadline);
}

asio::awaitable<result<std::vector<result<rows>>>> connection::impl::pipeline(std::span<const statement> statements,
                                                                              steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
  for (const auto& one : statements)
    if (auto fit = check(one.sql, one.parameters); !fit) co_return fit.error();
  const bool pinning = must_pin();
  if (!PQenterPipelineMode(pg)) co_return lost();
  const auto ends_transaction = [&](std::size_t i) { return i + 1 == statements.size() || !statements[i].with_next; };
  const auto pins = [&](std::size_t i) { return pinning && (i == 0 || ends_transaction(i - 1)); };
  for (std::size_t i = 0; i < statements.size(); ++i) {
    if (pins(i))
      if (auto sent = send(pin_transaction(), {}); !sent) co_return sent.error();
    if (auto sent = send(statements[i].sql, statements[i].parameters); !sent) co_return sent.error();
    if (ends_transaction(i) && !PQpipelineSync(pg)) co_return lost();
  }
  if (auto flushed = co_await flush(deadline); !flushed) co_return flushed.error();
  std::vector<result<rows>> results;
  results.reserve(statements.size());
  for (std::size_t i = 0; i < statements.size(); ++i) {
    result<> pinned;
    if (pins(i))
      if (auto set = co_await last_result(deadline); !set) pinned = set.error();
    if (!pg) co_return pinned.error();
    auto one = co_await last_result(deadline);
    if (!pg) co_return one.error();
    results.push_back(pinned ? std::move(one) : result<rows>{pinned.error()});
    if (!ends_transaction(i)) continue;
    auto committed = co_await take_sync(deadline);
    if (!pg) co_return committed.error();
    if (!committed) results[i] = committed.error();
  }
  if (!PQexitPipelineMode(pg)) co_return lost();
  co_return results;
}

asio::awaitable<result<>> connection::impl::take_sync(steady::time_point deadline) {
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

bool connection::impl::check_idle() {
  // The reason and the end of the stream may take one read each.
  for (int i = 0; i < 2 && pg; ++i)
    if (!consume() || last_words) close();
  return pg != nullptr;
}

asio::awaitable<result<>> connection::impl::wait_notifications(steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
  deliver();  // what came in one read with the end of the last command stands in libpq's buffer, and the socket will not tell
  if (!pg) co_return closed();
  if (std::exchange(woken, false)) co_return result<>{};
  co_await wait_readable(deadline);
  if (!pg) co_return closed();
  if (!consume()) co_return pg ? lost() : closed();
  if (std::exchange(woken, false) || steady::now() < deadline) co_return result<>{};
  co_return error{errc::timed_out, "nothing arrived in time"};
}

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
asio::awaitable<result<rows>> connection::query_in_own_path(std::string_view sql, std::span<const parameter> parameters,
                                                            steady::duration deadline) {
  return impl_->query_in_own_path(sql, parameters, deadline);
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
int connection::server_version() const { return impl_->pg ? PQserverVersion(impl_->pg) : 0; }
int connection::backend_pid() const { return impl_->pg ? PQbackendPID(impl_->pg) : 0; }
bool connection::pooled() const { return impl_->pooled; }
int connection::socket() const { return impl_->pg ? PQsocket(impl_->pg) : -1; }
bool connection::is_open() const { return impl_ && impl_->pg; }
void connection::close() { impl_->close(); }

}  // namespace postbus::postgres
