// A stream's life. A session with replication=database speaks the simple protocol only. IDENTIFY_SYSTEM says what LSNs
// will mean; CREATE_REPLICATION_SLOT waits until every transaction that was writing has ended, so that the slot's
// consistent point is known; START_REPLICATION turns the session into COPY BOTH, in which frames come ('w' data, 'k'
// keep-alive) and status updates go ('r'). Only the update's "flushed" lets the server forget WAL; an idle stream
// acknowledges keep-alives too, or other tables' WAL would be kept for nothing.
//
// The values of rows come as text, and text depends on settings: they are fixed here for the session.
#include "postgres/replication_stream.hpp"

#include <fmt/format.h>

#include <charconv>

#include "base/bytes.hpp"
#include "base/number.hpp"
#include "embedded_sql.hpp"

namespace postbus::postgres {
namespace {

constexpr std::string_view session_settings =
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex "
    "-c wal_sender_timeout=10s -c client_encoding=UTF8 -c statement_timeout=0 -c lock_timeout=0 "
    "-c idle_in_transaction_session_timeout=0";

std::string status_update(std::uint64_t applied, std::uint64_t acknowledged, bool reply_now) {
  std::string bytes{"r"};
  for (const auto lsn : {applied, acknowledged, applied}) append_big(bytes, lsn);  // written, flushed, applied
  append_big(bytes, now_micros() - postgres_epoch_micros);
  bytes += reply_now ? '\1' : '\0';
  return bytes;
}

error broken_answer(std::string_view command) {
  return {errc::protocol, "the database server gave an answer that no PostgreSQL gives", std::string{command}};
}

}  // namespace

std::optional<std::uint64_t> parse_lsn(std::string_view text) {
  std::uint32_t high{}, low{};
  const auto* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, high, 16);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != '/') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, low, 16);
  if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
  return std::uint64_t{high} << 32 | low;
}

replication_stream::replication_stream(connection session, stream_options options)
    : session_{std::move(session)}, options_{std::move(options)}, pulse_{steady::now(), options_.pulse} {}

asio::awaitable<result<replication_stream>> replication_stream::open(stream_options options) {
  connect_options connecting;
  connecting.conninfo = options.conninfo;
  connecting.application_name = options.application_name;
  connecting.replication = true;
  connecting.session_options = fmt::format("{} -c logical_decoding_work_mem={}kB", session_settings, options.decoding_kib);
  connecting.deadline = options.deadline;
  auto session = co_await connection::open(std::move(connecting));
  if (!session) co_return session.error();
  const auto deadline = options.deadline;
  replication_stream made{std::move(*session), std::move(options)};
  auto identified = co_await made.session_.execute("IDENTIFY_SYSTEM", deadline);
  if (!identified) co_return identified.error();
  if (identified->size() != 1 || identified->columns() < 4) co_return broken_answer("IDENTIFY_SYSTEM");
  made.identity_.system_identifier = identified->text(0, 0);
  made.identity_.timeline = number<std::uint32_t>(identified->text(0, 1));
  made.identity_.database = identified->text(0, 3);
  auto instance = co_await made.session_.execute(embedded_sql::find("statements/instance.sql"), deadline);
  if (!instance) co_return instance.error();
  if (instance->size() != 1) co_return broken_answer("instance.sql");
  made.identity_.instance = instance->text(0, 0);
  co_return made;
}

void replication_stream::use_slot(std::string name, std::uint64_t acknowledged) {
  slot_ = std::move(name);
  start_lsn_ = applied_ = acknowledged_ = acknowledged;
}

asio::awaitable<result<>> replication_stream::copy_slot(std::string_view from, std::string name) {
  const auto statement = fmt::format(fmt::runtime(embedded_sql::find("statements/changes/copy_slot.sql")),
                                     fmt::arg("from", quote_literal(from)), fmt::arg("to", quote_literal(name)));
  auto copied = co_await session_.execute(statement, options_.deadline);
  if (!copied) co_return copied.error();
  const auto place = copied->size() == 1 ? parse_lsn(copied->text(0, 0)) : std::nullopt;
  if (!place) co_return broken_answer("pg_copy_logical_replication_slot");
  use_slot(std::move(name), *place);
  co_return result<>{};
}

asio::awaitable<result<>> replication_stream::create_slot(std::string name, lifetime l) {
  const auto no_snapshot = session_.server_version() >= 150000 ? " (SNAPSHOT 'nothing')" : " NOEXPORT_SNAPSHOT";
  const auto command = "CREATE_REPLICATION_SLOT " + quote_identifier(name) + (l == lifetime::permanent ? "" : " TEMPORARY") +
                       " LOGICAL pgoutput" + no_snapshot;
  auto made = co_await session_.execute(command, options_.slot_deadline);
  if (!made) co_return made.error();
  const auto point = made->size() == 1 && made->columns() >= 2 ? parse_lsn(made->text(0, 1)) : std::nullopt;
  if (!point) co_return broken_answer("CREATE_REPLICATION_SLOT");
  use_slot(std::move(name), *point);
  co_return result<>{};
}

asio::awaitable<result<>> replication_stream::start() {
  const auto command =
      fmt::format("START_REPLICATION SLOT {} LOGICAL {:X}/{:X} (proto_version '2', streaming '{}', publication_names {}, messages 'true')",
                  quote_identifier(slot_), start_lsn_ >> 32, start_lsn_ & 0xffff'ffff, options_.in_blocks ? "on" : "off",
                  quote_literal(quote_identifier(options_.publication)));
  auto started = co_await session_.execute(command, options_.deadline);
  if (!started) co_return started.error();
  pulse_ = stream_pulse{steady::now(), options_.pulse};
  co_return result<>{};
}

result<std::optional<pgoutput::frame>> replication_stream::next() {
  auto taken = session_.take_copy_data();
  if (!taken) return taken.error();
  if (!*taken) return std::optional<pgoutput::frame>{};
  auto frame = pgoutput::decode_frame(**taken);
  if (!frame) return frame.error();
  if (const auto* alive = std::get_if<pgoutput::keepalive>(&*frame); alive && alive->reply_requested)
    pulse_.requested(steady::now(), acknowledged_ < applied_);
  return std::optional{*frame};
}

asio::awaitable<result<>> replication_stream::speak(stream_pulse::action what) {
  if (what == stream_pulse::action::none) co_return result<>{};
  if (what == stream_pulse::action::give_up)
    co_return error{errc::timed_out, "the database stopped answering on the replication session; it will be made anew"};
  if (what == stream_pulse::action::leave) co_return error{errc::unavailable, "the database is being shut down"};
  const auto bytes = status_update(applied_, acknowledged_, what == stream_pulse::action::question);
  co_return co_await session_.put_copy_data(bytes, options_.pulse.answer_within);
}

asio::awaitable<result<>> replication_stream::wait(steady::duration longest) {
  auto spoken = co_await speak(pulse_.due(steady::now()));
  if (!spoken) co_return spoken;
  auto waited = co_await session_.wait_copy_data(std::min(longest, pulse_.next() - steady::now()));
  if (waited)
    pulse_.heard(steady::now());  // bytes came, be it a part of a large message
  else if (waited.error().code == errc::timed_out && session_.is_open())
    co_return result<>{};
  co_return waited;
}

asio::awaitable<result<>> replication_stream::keep_alive() {
  pulse_.heard(steady::now());
  co_return co_await speak(pulse_.due(steady::now()));
}

}  // namespace postbus::postgres
