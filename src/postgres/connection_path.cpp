// Whose functions and operators our statements call, and that none of them is compiled (pin.sql). A name without a schema is looked up along search_path, and one in pg_catalog
// is passed over where another schema of the path has one that fits the arguments' types better: whoever may create things in
// `public` could have them run as the gateway's role. So the path is pg_catalog alone (and pg_temp, last, where it is
// never looked through for functions and operators).
//
// A session of the server's own is pinned once. Behind a transaction pooler the server's session is another client's in the next moment,
// who would be surprised, and ours is another: there each transaction begins with the pin, which ends with it. The two are told
// apart by the process that runs statements: a pooler answers the start-up itself and makes the process number up.
//
// Source: PostgreSQL manual, "Schemas", "Operator Type Resolution", "Function Type Resolution"; CVE-2018-1058.
#include <fmt/format.h>

#include "embedded_sql.hpp"
#include "postgres/connection_impl.hpp"

namespace postbus::postgres {

std::string_view pin_transaction() { return embedded_sql::find("statements/search_path/pin_transaction.sql"); }

asio::awaitable<result<>> connection::impl::pin_search_path(steady::time_point deadline) {
  const auto sql = fmt::format(fmt::runtime(embedded_sql::find("statements/search_path/pin.sql")), PQbackendPID(pg));
  auto pinned = co_await execute(sql, deadline - steady::now());
  if (!pinned) co_return pinned.error();
  pooled = pinned->is_true(0, 1);
  co_return result<>{};
}

bool connection::impl::must_pin() const { return pooled && PQtransactionStatus(pg) == PQTRANS_IDLE; }

asio::awaitable<result<rows>> connection::impl::query_in_own_path(std::string_view sql, std::span<const parameter> parameters,
                                                                  steady::duration within) {
  const statement both[] = {{.sql = embedded_sql::find("statements/search_path/own.sql"), .parameters = {}, .with_next = true},
                            {.sql = sql, .parameters = parameters}};
  auto done = co_await pipeline(both, within);
  if (!done) co_return done.error();
  if (!done->front()) co_return done->front().error();
  co_return std::move(done->back());
}

}  // namespace postbus::postgres
