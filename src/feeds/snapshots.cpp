// A snapshot's life here.
//
// 1. Whoever asks first starts a fill; whoever asks for the same until shortly after its end is given the same spool.
// 2. The fill waits in line for its turn, opens a session, locks the table against being rewritten and takes its snapshot: S
//    and the WAL's insert position L in the first statement. Where S cannot be joined (changes::visibility) it waits a
//    little and takes another.
//    Before the first snapshot of a table it waits for those who wrote to it already: what a transaction wrote before the
//    table was watched is not in the stream, and must be in the rows.
// 3. COPY gives the rows as fast as the database can; each is written into the spool as its payload. How fast clients take
//    them from there is no business of the transaction's, which ends with the last row.
// 4. When the stream has passed L it is known where the rows are joined with it. Subscribers do that by themselves: they
//    replay the feed's history from there without what S sees, and attach.
//
// What fails before the first row is the answer to those who asked; what fails later ends the readers, who start over.
#include "feeds/snapshots.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "base/error_format.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"
#include "feeds/catalog.hpp"
#include "feeds/copied_row.hpp"
#include "feeds/feed_name.hpp"

namespace postbus::feeds {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;

constexpr auto statement_deadline = 10s;
constexpr auto between_attempts = 100ms;
/** Clients that are told to start over do so at once: a table that was too large a moment ago is not copied for them again. */
constexpr auto too_large_for = 1min;

/** The stream's own, so that values have the same text (postgres::replication_stream). */
constexpr const char* session_settings =
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex "
    "-c client_encoding=UTF8 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c synchronous_commit=local";

/** The statement with what stands for its {words}; what is filled in is not looked at again. */
std::string filled_in(std::string_view statement, std::initializer_list<std::pair<std::string_view, std::string>> words) {
  auto left = embedded_sql::find(statement);
  left = left.substr(left.find('\n') + 1);  // the comment that names the words
  std::string sql;
  for (std::size_t at = 0; at < left.size();) {
    const auto word = std::ranges::find_if(words, [&](const auto& w) { return left.substr(at).starts_with(w.first); });
    if (word == words.end()) {
      sql += left[at++];
    } else {
      sql += word->second;
      at += word->first.size();
    }
  }
  return sql;
}

error stopping() { return {errc::draining, "the gateway is shutting down; come back in a moment"}; }

error nobody_waits() { return {errc::unavailable, "nobody waits for the rows any more"}; }

/** What a refusal of the database means to the client that waits for the rows. */
error refused(error why, std::string_view table) {
  const auto state = postgres::sqlstate(why);
  if (state == "42501")
    return {
        errc::conflict,
        fmt::format("the gateway's role may not read all rows of {}: row-level security would hide some; give the role BYPASSRLS", table),
        why.detail};
  if (state == "55P03")
    return {errc::unavailable, fmt::format("the table {} is locked by somebody who changes its definition; come back in a moment", table),
            why.detail};
  if (state == "55000") return {errc::unsupported, "a snapshot can only be taken on the primary", why.detail};
  if (state == "42P01" || state == "42703")
    return {errc::unavailable, fmt::format("the table {} was changed meanwhile: start over", table), why.detail};
  return why;
}

}  // namespace

struct snapshots::one {
  one(const asio::any_io_executor& executor, spool_space& space, std::string channel, std::shared_ptr<const view> v)
      : shown{std::move(v)}, rows{std::make_shared<spool>(space, std::move(channel))}, changed{executor, steady::time_point::max()} {}
  std::shared_ptr<const view> shown;  ///< null: the whole feed
  std::shared_ptr<spool> rows;
  asio::steady_timer changed;  ///< cancelled when one of the following is
  bool begun{};
  std::atomic<bool> complete{};
  std::optional<error> failed;
  steady::time_point deadline{};
  steady::time_point shared_until{steady::time_point::max()};

  std::string name;  ///< schema.table, for texts
  bool partitioned{};
  postgres::connection* session{};  ///< while it is used
  std::optional<changes::visibility::fill> fill;
  std::uint32_t epoch{};
  std::uint64_t lsn{};
  std::vector<copied_rows::column> columns;
  std::string column_list, schema, table, quoted;
};

snapshots::snapshots(asio::any_io_executor executor, settings given, bus::hub& h, changes::reader& r, spawner spawn)
    : executor_{std::move(executor)},
      settings_{std::move(given)},
      hub_{h},
      reader_{r},
      spawn_{std::move(spawn)},
      line_{executor_, steady::time_point::max()} {
  space_.most = settings_.bytes;
  space_.memory = settings_.memory;
}

snapshots::~snapshots() = default;

void snapshots::stop() {
  stopped_ = true;
  line_.cancel();
  for (const auto& [channel, o] : current_) {
    if (o->session) o->session->close();
    o->changed.cancel();
  }
}

asio::awaitable<result<std::unique_ptr<spool_reader>>> snapshots::open(std::string channel, std::shared_ptr<const view> shown) {
  if (stopped_) co_return stopping();
  if (shown) channel = shown->channel();
  std::erase_if(too_large_, [](const auto& r) { return steady::now() >= r.second.until; });
  if (const auto found = too_large_.find(channel); found != too_large_.end()) co_return found->second.why;
  std::shared_ptr<one> o;
  if (const auto found = current_.find(channel);
      found != current_.end() && !found->second->failed && steady::now() < found->second->shared_until)
    o = found->second;
  const bool fresh = !o;
  if (fresh) o = std::make_shared<one>(executor_, space_, channel, std::move(shown));
  auto reader = std::make_unique<spool_reader>(o->rows);
  if (fresh) {
    {
      const std::scoped_lock lock{guard_};
      current_.insert_or_assign(channel, o);
    }
    spawn_("a snapshot", fill(o));
  }
  while (!o->begun && !o->failed) co_await o->changed.async_wait(asio::as_tuple(asio::use_awaitable));
  if (o->failed) co_return *o->failed;
  co_return reader;
}

void snapshots::forget(const one& o) {
  const std::scoped_lock lock{guard_};
  if (const auto found = current_.find(o.rows->channel()); found != current_.end() && found->second.get() == &o) current_.erase(found);
}

asio::awaitable<void> snapshots::fill(std::shared_ptr<one> o) {
  o->deadline = steady::now() + settings_.deadline;
  metrics::adjust(metrics::gauge::snapshots_waiting, 1);
  auto done = co_await wait_in_line(*o);
  metrics::adjust(metrics::gauge::snapshots_waiting, -1);
  if (done) {
    metrics::set(metrics::gauge::snapshots_reading, ++running_);
    done = co_await take(*o);
    o->session = nullptr;
    metrics::set(metrics::gauge::snapshots_reading, --running_);
    line_.cancel();
  }
  o->fill.reset();
  if (!done) {
    const auto& why = done.error();
    if (!o->rows->abandoned()) log::warning("feeds", "no snapshot of {}: {}", o->rows->channel(), why);
    o->failed = why;
    if (why.code == errc::too_large) too_large_.insert_or_assign(o->rows->channel(), refusal{why, steady::now() + too_large_for});
    o->rows->fail(why);
    forget(*o);
    o->changed.cancel();
    co_return;
  }
  o->complete = true;
  o->shared_until = steady::now() + settings_.shared_for;
  o->changed.expires_at(o->shared_until);  // stop() ends the wait
  if (!stopped_) co_await o->changed.async_wait(asio::as_tuple(asio::use_awaitable));
  forget(*o);
}

asio::awaitable<result<>> snapshots::wait_in_line(one& o) {
  const auto until = steady::now() + settings_.patience;
  while (running_ >= settings_.at_once && !stopped_) {
    if (steady::now() >= until)
      co_return error{errc::unavailable, fmt::format("{} snapshots are being taken already; come back in a while", running_)};
    if (o.rows->abandoned()) co_return nobody_waits();
    asio::steady_timer limit{executor_, until};
    limit.async_wait([this](boost::system::error_code ended) {
      if (!ended) line_.cancel();
    });
    co_await line_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  if (stopped_) co_return stopping();
  co_return result<>{};
}

asio::awaitable<result<>> snapshots::take(one& o) {
  const auto until = steady::now() + settings_.patience;
  auto session = co_await postgres::connection::open(
      {.conninfo = settings_.conninfo, .application_name = "postbus snapshot", .session_options = session_settings});
  if (!session) co_return session.error();
  o.session = &*session;
  o.name = bus::public_name(o.rows->channel()).substr(feed_prefix.size());
  const postgres::parameter named[] = {o.name};
  auto table = co_await session->query(embedded_sql::find("statements/feeds/snapshot_table.sql"), named, statement_deadline);
  if (!table) co_return refused(table.error(), o.name);
  if (table->size() == 0) co_return not_watched(o.name);
  const std::string id{table->text(0, 0)}, quoted{table->text(0, 3)};
  o.schema = table->text(0, 1);
  o.table = table->text(0, 2);
  o.partitioned = table->is_true(0, 4);
  if (!table->is_true(0, 5))
    co_return error{errc::conflict,
                    fmt::format("the gateway's role may not read {}: grant select on {} to {}", o.name, quoted, table->text(0, 6))};
  const auto watching = id + ':' + std::string{table->text(0, 7)};
  if (!settled_.contains(watching)) {
    auto settled = co_await outwait_writers(o, *session, id, until);
    if (!settled) co_return settled;
    settled_.insert(watching);
  }
  asio::steady_timer timer{executor_};
  for (;;) {
    auto begun = co_await begin(o, *session, quoted, id);
    if (begun) break;
    const bool may_pass = begun.error().code == errc::unavailable && session->is_open();
    if (!may_pass || stopped_ || o.rows->abandoned() || steady::now() >= until) co_return refused(begun.error(), o.name);
    auto ended = co_await session->execute(embedded_sql::find("statements/feeds/snapshot_end.sql"), statement_deadline);
    if (!ended) co_return ended.error();
    timer.expires_after(between_attempts);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  type_table types;
  std::vector<oid> unknown;
  for (const auto& c : o.columns)
    if (!types.find(c.type)) unknown.push_back(c.type);
  if (!unknown.empty()) {
    database_catalog catalog{settings_.conninfo};
    auto found = co_await catalog.types(unknown);
    if (!found) co_return found.error();
    types.add(*found, unknown);
  }
  copied_rows rows{o.schema, o.table, o.columns, std::move(types)};
  auto copied = co_await copy(o, *session, rows);
  if (!copied) co_return refused(copied.error(), o.name);
  auto ended = co_await session->execute(embedded_sql::find("statements/feeds/snapshot_end.sql"), statement_deadline);
  if (!ended) co_return ended.error();
  co_return co_await join(o, *session);
}

/** Waits until all have ended who write to the table now. */
asio::awaitable<result<>> snapshots::outwait_writers(one& o, postgres::connection& session, const std::string& id,
                                                     steady::time_point until) {
  asio::steady_timer timer{executor_};
  std::string who;
  for (bool first = true;; first = false) {
    const postgres::parameter parameters[] = {id, first ? postgres::parameter{} : postgres::parameter{who}};
    auto left = co_await session.query(embedded_sql::find("statements/feeds/snapshot_writers.sql"), parameters, statement_deadline);
    if (!left) co_return left.error();
    if (left->size() == 0) co_return result<>{};
    if (stopped_) co_return stopping();
    if (o.rows->abandoned()) co_return nobody_waits();
    if (steady::now() >= until)
      co_return error{errc::unavailable,
                      fmt::format("a snapshot of {} must wait for a transaction that may have written to it before it was watched: {}",
                                  o.name, left->text(0, 1))};
    who = "{";
    for (std::size_t row = 0; row < left->size(); ++row) who += fmt::format("{}{}", row == 0 ? "" : ",", left->text(row, 0));
    who += '}';
    timer.expires_after(between_attempts);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

/** Opens the transaction and takes its snapshot. */
asio::awaitable<result<>> snapshots::begin(one& o, postgres::connection& session, const std::string& table, const std::string& id) {
  auto locked = co_await session.execute(filled_in("statements/feeds/snapshot_begin.sql", {{"{table}", table}}), statement_deadline);
  if (!locked) co_return locked.error();
  o.epoch = hub_.head().epoch;
  o.fill.emplace(reader_.visibility());
  const postgres::parameter parameters[] = {id};
  auto taken = co_await session.query(embedded_sql::find("statements/feeds/snapshot_taken.sql"), parameters, statement_deadline);
  if (!taken) co_return taken.error();
  if (taken->size() == 0 || taken->text(0, 5) != table)
    co_return error{errc::unavailable, fmt::format("the table {} was changed meanwhile: start over", o.name)};
  auto seen = changes::snapshot::parse(taken->text(0, 0));
  if (!seen) co_return seen.error();
  if (auto fits = o.fill->arrived(std::move(*seen)); !fits) co_return fits.error();
  o.lsn = number<std::uint64_t>(taken->text(0, 1));
  o.rows->time = number<std::int64_t>(taken->text(0, 2));
  o.rows->estimated = number<std::int64_t>(taken->text(0, 4));
  o.quoted = table;
  if (const auto columns = taken->get(0, 3))
    for (const auto& c : boost::json::parse({columns->data(), columns->size()}).as_array()) {
      if (o.shown && o.shown->columns() &&
          std::ranges::find(*o.shown->columns(), std::string_view{c.at(0).as_string()}) == o.shown->columns()->end())
        continue;
      o.columns.push_back({std::string{c.at(0).as_string()}, c.at(1).to_number<oid>()});
      o.column_list += (o.column_list.empty() ? "" : ", ") + std::string{c.at(2).as_string()};
    }
  co_return result<>{};
}

asio::awaitable<result<>> snapshots::copy(one& o, postgres::connection& session, copied_rows& rows) {
  using what = postgres::connection::copied_row::what;
  const auto* const filter = o.shown ? o.shown->filter() : nullptr;
  const bool by_name = !o.partitioned && !o.columns.empty() && filter == nullptr;
  const auto sql = by_name
                       ? filled_in("statements/feeds/snapshot_copy.sql", {{"{table}", o.quoted}, {"{columns}", o.column_list}})
                       : filled_in("statements/feeds/snapshot_copy_query.sql", {{"{table}", (o.partitioned ? "" : "only ") + o.quoted},
                                                                                {"{columns}", o.column_list},
                                                                                {"{where}", filter ? std::string{filter->sql()} : "true"}});
  const auto left = [&o] { return o.deadline - steady::now(); };
  auto begun = co_await session.copy_out(sql, left());
  if (!begun) co_return begun;
  o.begun = true;
  o.changed.cancel();
  for (;;) {
    auto row = session.take_row();
    if (!row) co_return row.error();
    if (row->is == what::end) break;
    if (row->is == what::none_yet) {
      if (stopped_) co_return stopping();
      if (o.rows->abandoned()) co_return nobody_waits();
      auto waited = co_await session.wait_row(left());
      if (!waited) co_return waited;
      continue;
    }
    if (!rows.append(o.rows->begin_row(), row->text))
      co_return error{errc::protocol, "the rows of the table are not what was asked for", std::string{row->text.substr(0, 200)}};
    auto kept = o.rows->end_row();
    if (!kept) co_return kept;
  }
  auto ended = co_await session.end_copy(statement_deadline);
  if (!ended) co_return ended;
  co_return o.rows->end_rows();
}

asio::awaitable<result<>> snapshots::join(one& o, postgres::connection& session) {
  if (hub_.head().lsn < o.lsn) {
    // The stream brings only what is flushed, and nobody may be about to commit.
    auto poked = co_await session.query(embedded_sql::find("statements/changes/flush_poke.sql"), {}, statement_deadline);
    if (!poked && poked.error().code != errc::database) co_return poked.error();
  }
  session.close();
  auto passed = co_await reader_.until_applied(o.epoch, o.lsn, o.deadline);
  if (!passed) co_return passed;
  const auto head = hub_.head();
  auto from = o.fill->join(head);
  if (!from) co_return from.error();
  o.rows->joined({o.fill->taken(), *from, head});
  co_return result<>{};
}

std::vector<snapshots::progress> snapshots::under_way() const {
  std::vector<progress> all;
  const std::scoped_lock lock{guard_};
  all.reserve(current_.size());
  for (const auto& [channel, o] : current_)
    all.push_back({std::string{bus::public_name(channel)}, o->shown && o->shown->filter() ? std::string{o->shown->filter()->sql()} : "",
                   o->rows->rows(), o->rows->estimated.load(), o->rows->readers(), o->complete});
  return all;
}

}  // namespace postbus::feeds
