// A page's life: how far everything is written down is noted first → the runs of positions after the reader's place, up
// to a page's worth, once more where the tables are not as far as that (a crash took places back) → for each segment among them one statement brings the rows by their ids → they are put into the
// order of the positions, in memory. Positions are written only of messages that every later snapshot sees, so a row that
// is not there has been dropped meanwhile, and its place is told as a gap.
#include "streams/store.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/metrics.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"
#include "postgres/server_error.hpp"
#include "streams/entry.hpp"

namespace postbus::streams {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using postgres::parameter;

constexpr auto statement_deadline = 30s;
constexpr auto session_patience = 10s;
constexpr auto record_patience = 30s;
constexpr auto look_again = 50ms;  // at tables that a crash has set back
/** Ids lie this close together, on average, where one range of them is cheaper than a list. */
constexpr std::uint64_t dense = 4;
/** As in page.sql. */
constexpr std::size_t most_runs = 4'000, most_of_a_run = 4'096;

/** A message's place, and where its row is to be found. */
struct placed {
  bus::position at;
  entry what;
  std::int32_t segment;
};

error not_yet() { return {errc::unavailable, "the order of the stream's messages is still being established; come back in a moment"}; }

std::string gap_payload(bus::position from, bus::position to) {
  return fmt::format(R"({{"from":"{}","to":"{}","reason":"expired"}})", bus::to_text(from), bus::to_text(to));
}

bus::position place_from_hex(std::uint32_t epoch, std::string_view hex) {
  std::uint64_t lsn = 0;
  std::uint32_t index = 0;
  std::from_chars(hex.data(), hex.data() + 16, lsn, 16);
  std::from_chars(hex.data() + 16, hex.data() + 24, index, 16);
  return {epoch, lsn, index};
}

}  // namespace

store::store(asio::any_io_executor executor, settings given, recorder& written, const bus::hub& h)
    : settings_{std::move(given)},
      recorder_{written},
      hub_{h},
      sessions_{std::move(executor), {.session = {.conninfo = settings_.conninfo, .application_name = "postbus replay"}}} {}

asio::awaitable<result<postgres::rows>> store::ask(std::string_view statement, std::span<const parameter> parameters) {
  auto session = co_await sessions_.acquire(session_patience);
  if (!session) co_return session.error();
  auto answer = co_await (*session)->query(statement, parameters, statement_deadline);
  co_return answer;
}

/** How far everything is written down, once that is known. */
asio::awaitable<result<bus::position>> store::readable() {
  const auto limit = steady::now() + record_patience;
  for (;;) {
    const auto at = recorder_.recorded();
    if (at.epoch != 0 && at.epoch == hub_.head().epoch) co_return at;
    if (steady::now() >= limit) co_return not_yet();
    co_await recorder_.progress(1s);
  }
}

asio::awaitable<result<store::written_runs>> store::runs_after(std::string_view channel, bus::start from, std::size_t most) {
  const auto* const asked = std::get_if<bus::position>(&from);
  const bool all = asked == nullptr || asked->lsn == 0;  // the place before the first message is where a reader of all is told to stand
  auto complete = co_await readable();
  if (!complete) co_return complete.error();
  if (!all && *complete <= *asked && hub_.whole_since() > *asked) {
    // All that is written down is known to the caller, and history does not reach back to it: the rest is on its way.
    co_await recorder_.progress(1s);
    complete = co_await readable();
  }
  const auto limit = steady::now() + record_patience;
  while (complete) {
    const auto epoch = complete->epoch;
    const auto written = recorder_.written_lsn();
    const error anew{errc::unavailable, "positions began anew while the stream was read; come back"};
    if (!all && asked->epoch != epoch) co_return anew;
    auto after = all ? bus::position{epoch, 0, 0} : *asked;
    if (after.from_notify()) after.index = bus::position::end_of_commit;
    const auto epoch_text = std::to_string(epoch), lsn = std::to_string(after.lsn), index = std::to_string(after.index),
               wanted = std::to_string(most);
    const parameter parameters[] = {channel, epoch_text, lsn, index, wanted};
    auto runs = co_await ask(embedded_sql::find("statements/streams/page.sql"), parameters);
    if (!runs) co_return runs.error();
    if (runs->size() == 0) co_return error{errc::not_found, "this channel is not a stream"};
    if (number<std::uint32_t>(runs->text(0, 6)) != epoch) co_return anew;
    if (number<std::uint64_t>(runs->text(0, 7)) >= written) co_return written_runs{*complete, after, std::move(*runs)};
    if (steady::now() >= limit) co_return not_yet();
    recorder_.look();  // a crash of the server undid some: it writes them once more
    asio::steady_timer pause{co_await asio::this_coro::executor, look_again};
    co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
    complete = co_await readable();
  }
  co_return complete.error();
}

asio::awaitable<result<page>> store::read(std::string channel, bus::start from, std::size_t most) {
  most = std::min(most, settings_.page_messages);
  auto found_runs = co_await runs_after(channel, from, most);
  if (!found_runs) co_return found_runs.error();
  const auto& [complete, after, runs] = *found_runs;
  const auto epoch = complete.epoch;
  const bool all = after.lsn == 0;

  auto made = std::make_shared<bus::batch>();
  page out{made, after, false};
  std::vector<placed> places;
  std::size_t bytes = 0, seen = 0;
  bool full = false, ahead = false;
  for (std::size_t row = 0; row < runs.size() && !full && !ahead; ++row) {
    const auto hex = runs.text(row, 4);
    const auto base = runs.get(row, 3);
    for (std::size_t offset = 2, k = 0; offset < hex.size(); offset += 2 * entry_bytes, ++k) {
      const auto e = parse_hex(hex, offset);
      const auto at = base ? bus::position{epoch, number<std::uint64_t>(runs.text(row, 2)),
                                           number<std::uint32_t>(*base) + static_cast<std::uint32_t>(k)}
                           : bus::position{epoch, e.lsn, e.index};
      ++seen;
      if (!all && at <= after) continue;
      ahead = at.lsn > complete.lsn;  // written since we looked: the next page's business
      full = places.size() >= most || (!places.empty() && bytes + e.bytes > settings_.page_bytes);
      if (ahead || full) break;
      bytes += e.bytes;
      places.push_back({at, e, number<std::int32_t>(runs.text(row, 1))});
    }
  }
  // page.sql leaves no run out before these bounds are reached.
  out.end = ahead || (!full && runs.size() < most_runs && seen < most + most_of_a_run);
  if (places.empty() && !out.end) co_return error{errc::database, "the positions of the stream's messages are damaged"};

  boost::unordered_flat_map<std::int32_t, std::vector<std::uint64_t>> by_segment;
  for (const auto& p : places) by_segment[p.segment].push_back(p.what.id);
  boost::unordered_flat_map<std::uint64_t, std::pair<const postgres::rows*, std::size_t>> found;
  std::vector<std::unique_ptr<postgres::rows>> held;
  found.reserve(places.size());
  for (auto& [segment, ids] : by_segment) {
    const auto [least, greatest] = std::ranges::minmax(ids);
    const bool range = greatest - least < dense * ids.size() + dense;
    std::string list;
    if (range) {
      list = fmt::format("between {} and {}", least, greatest);
    } else {
      list = fmt::format("= any ('{{{}}}')", fmt::join(ids, ","));
    }
    const auto statement = fmt::format(fmt::runtime(embedded_sql::find("statements/streams/rows.sql")), segment, list);
    auto rows = co_await ask(statement, {});
    if (!rows) co_return rows.error();
    held.push_back(std::make_unique<postgres::rows>(std::move(*rows)));
    const auto& r = *held.back();
    for (std::size_t i = 0; i < r.size(); ++i) found.emplace(number<std::uint64_t>(r.text(i, 0)), std::pair{&r, i});
  }

  auto gap_to = runs.get(0, 5) ? place_from_hex(epoch, *runs.get(0, 5)) : bus::position{};
  bool gone = !all && gap_to > after;
  auto told = after;
  const auto tell_gap = [&](const bus::position& before) {
    // A gap stands before what follows it, so that a listener which resumes after it misses nothing.
    if (!gone) return;
    auto to = std::min(gap_to, before);
    if (to < told) to = told;
    made->add(channel, bus::kind::gap, bus::payload_form::json, gap_payload(told, to), to, now_micros());
    metrics::add(metrics::counter::gaps_expired);
    gone = false;
  };
  const auto just_before = [](bus::position at) {
    if (at.index > 0)
      --at.index;
    else
      at = {at.epoch, at.lsn - 1, bus::position::end_of_commit};
    return at;
  };
  std::size_t delivered = 0;
  for (const auto& p : places) {
    const auto row = found.find(p.what.id);
    if (row == found.end()) {
      gone = true;
      gap_to = p.at;
      continue;
    }
    tell_gap(just_before(p.at));
    const auto& [rows, i] = row->second;
    made->add(channel, bus::kind::message, rows->is_true(i, 1) ? bus::payload_form::json : bus::payload_form::text, rows->text(i, 2), p.at,
              p.what.time);
    told = p.at;
    ++delivered;
  }
  if (!places.empty()) out.upto = std::max(out.upto, places.back().at);
  if (out.end) out.upto = std::max(out.upto, complete);
  tell_gap(out.upto);
  metrics::add(metrics::counter::stream_replayed, delivered);
  co_return out;
}

asio::awaitable<result<bus::start>> store::consumer_start(std::string channel, std::string consumer) {
  const auto complete = co_await readable();  // in a new epoch consumers' places have been moved by then
  if (!complete) co_return complete.error();
  const parameter parameters[] = {channel, consumer};
  auto found = co_await ask(embedded_sql::find("statements/streams/consumer.sql"), parameters);
  if (!found) co_return found.error();
  if (found->size() == 0)
    co_return error{errc::not_found,
                    fmt::format("the channel '{}' is not a stream, which a consumer needs; select postbus.create_stream({})", channel,
                                postgres::quote_literal(channel))};
  const auto place = found->get(0, 1);
  if (!place) co_return bus::start{bus::from_beginning{}};
  if (number<std::uint32_t>(found->text(0, 0)) != complete->epoch)
    co_return error{errc::unavailable, "positions begin anew; come back in a moment"};
  co_return bus::start{place_from_hex(complete->epoch, *place)};
}

asio::awaitable<result<>> store::ack(std::string channel, std::string consumer, std::string position) {
  const parameter parameters[] = {channel, consumer, position};
  auto done = co_await ask(embedded_sql::find("statements/streams/ack.sql"), parameters);
  if (!done) co_return postgres::for_client(done.error());
  co_return result<>{};
}

}  // namespace postbus::streams
