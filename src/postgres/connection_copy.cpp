// COPY TO STDOUT and COPY BOTH. Both take what libpq's buffer holds without waiting, and look at it once more when the session
// broke: what came before that, and the server's reason, may still stand there.
#include <utility>

#include "postgres/connection_impl.hpp"

namespace postbus::postgres {
namespace {

/** wait_copy_data does not suspend more often than this in a row: 16 kB of libpq's buffer each. */
constexpr int eager_reads = 8;

}  // namespace

result<bool> connection::impl::fetch_copy_data() {
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

result<std::optional<std::string_view>> connection::impl::take_copy_data() {
  if (!pg) return closed();
  if (!std::exchange(copy_fetched, false)) {
    auto fetched = fetch_copy_data();
    if (!fetched) return fetched.error();
    if (!*fetched) return std::optional<std::string_view>{};
  }
  return std::optional{std::string_view{copy_buffer, copy_size}};
}

asio::awaitable<result<>> connection::impl::wait_copy_data(steady::duration within) {
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
  const auto deadline = deadline_after(within);
  co_await wait_readable(deadline);
  if (!pg) co_return closed();
  if (!consume()) co_return pg ? lost_or_ended() : result<>{closed()};
  if (std::exchange(woken, false) || steady::now() < deadline) co_return result<>{};
  co_return error{errc::timed_out, "nothing arrived in time"};
}

result<> connection::impl::lost_or_ended() {
  auto fetched = fetch_copy_data();
  if (!fetched) return fetched.error();
  if (!*fetched) return lost();
  copy_fetched = true;
  return {};
}

asio::awaitable<result<>> connection::impl::put_copy_data(std::string_view bytes, steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
  if (PQputCopyData(pg, bytes.data(), static_cast<int>(bytes.size())) != 1) co_return lost();
  co_return co_await flush(deadline);
}

asio::awaitable<result<>> connection::impl::copy_out(std::string_view sql, steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
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

result<connection::copied_row> connection::impl::take_row() {
  if (!pg) return closed();
  if (copy_buffer) PQfreemem(std::exchange(copy_buffer, nullptr));
  const int size = PQgetCopyData(pg, &copy_buffer, 1);
  if (size > 0) return copied_row{copied_row::what::row, {copy_buffer, static_cast<std::size_t>(size)}};
  if (size == 0 && broken) return lost();
  if (size == 0) return copied_row{copied_row::what::none_yet};
  if (size == -1) return copied_row{copied_row::what::end};
  return lost();
}

asio::awaitable<result<>> connection::impl::wait_row(steady::duration within) {
  if (!pg) co_return closed();
  const auto deadline = deadline_after(within);
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

asio::awaitable<result<>> connection::impl::end_copy(steady::duration within) {
  if (!pg) co_return closed();
  auto ended = co_await last_result(deadline_after(within));
  if (!ended) co_return ended.error();
  co_return result<>{};
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

}  // namespace postbus::postgres
