// From frames to batches; a transaction's life here:
//
// 1. Begin tells its xid, which is widened, and its commit time. It does not tell where the commit ends.
// 2. Messages under our prefix become events of their channel; rows go to the row handler, which appends events of its
//    own. Until the commit they carry their index alone and stand behind the committed events of the same batch.
// 3. Commit tells the end LSN: (epoch, end LSN, index) is complete on each of them, and they count as committed.
// 4. `committed` hands the batch out. Where an open transaction has events in it already (the socket ran dry in the
//    middle of one), they are copied into the next batch first; at most `publish_bytes` and a frame are ever copied.
// 5. After a broken connection the server sends a transaction again that was not acknowledged. Events up to the last one
//    handed out are dropped then: only a streamed transaction can have been handed out in part.
//
// The order within a transaction is that of its records in the WAL. The server merges its subtransactions by their changes'
// places, and takes for a message's place where its record ends: where the next record begins. When that one is another
// subtransaction's the two tie, and which comes first is chance, and another chance when the transaction is read again. So
// a message at whose place the record of the last rows begins goes before them (move_before_record).
//
// A message under our prefix may come from anyone who may call pg_logical_emit_message. What postbus.post could not have
// made (a reserved or malformed channel, text that is not UTF-8, json that is not JSON, or outside of a transaction) is dropped and counted; anything else cannot be told from a post.

#include "changes/assembler.hpp"

#include <algorithm>

#include "base/json_text.hpp"
#include "base/log.hpp"
#include "bus/channel.hpp"

namespace postbus::changes {
namespace {

namespace pgoutput = postgres::pgoutput;

constexpr std::string_view prefix = "postbus:";
constexpr std::size_t page_bytes = 8192, longest_page_header = 40;

error broken(const char* what) { return {errc::protocol, "the replication stream is broken; the connection will be made anew", what}; }

/**
 * A record never begins at a page boundary but after the page's header, so nothing can end within it. With this,
 * "everything up to a boundary" covers pg_current_wal_insert_lsn(), which points behind the header already.
 */
std::uint64_t over_page_header(std::uint64_t lsn) { return lsn % page_bytes == 0 ? lsn + longest_page_header : lsn; }

}  // namespace

void assembler::start(std::uint32_t epoch, std::uint64_t start_lsn, std::uint64_t some_xid, int server_version) {
  epoch_ = epoch;
  wide_xid_ = some_xid;
  applied_ = {epoch, start_lsn, bus::position::end_of_commit};
  resume_lsn_ = start_lsn;
  republished_ = false;
  if (handed_out_.epoch != epoch) {
    handed_out_ = {epoch, 0, 0};
    unfinished_ = 0;
  }
  if (!rows_) return;
  rows_->begins_at(applied_);
  rows_->started(server_version);
}

result<assembler::want> assembler::take(const pgoutput::frame& frame) {
  if (const auto* data = std::get_if<pgoutput::xlog_data>(&frame)) return take_data(*data);
  // Within a transaction the server may speak of WAL whose commits it has not sent.
  const auto& alive = std::get<pgoutput::keepalive>(frame);
  if (!open_) {
    applied_ = std::max(applied_, {epoch_, over_page_header(alive.wal_end), bus::position::end_of_commit});
    resume_lsn_ = std::max(resume_lsn_, alive.wal_end);
  }
  return want::nothing;
}

result<assembler::want> assembler::take_data(const pgoutput::xlog_data& data) {
  const auto decoded = pgoutput::decode(data.payload);
  if (!decoded) return decoded.error();
  const auto& change = *decoded;
  if (const auto* b = std::get_if<pgoutput::begin>(&change)) {
    if (open_) return broken("begin within a transaction");
    begin(b->xid, b->commit_time, data.sent);
    return want::nothing;
  }
  if (const auto* c = std::get_if<pgoutput::commit>(&change)) {
    if (!open_ || known_end_) return broken("commit outside of a transaction");
    return commit(*c);
  }
  return take_change(change, data.wal_start);
}

result<assembler::want> assembler::take_change(const pgoutput::change& change, std::uint64_t at) {
  if (const auto* m = std::get_if<pgoutput::message>(&change)) {
    take_message(*m, at);
  } else {
    if (!open_) return broken("a change outside of a transaction");
    if (!take_row(change, at)) return want::again;
  }
  if (open_) check_size();
  if (rows_ && rows_->wants_to_resolve()) return want::resolve;
  // Before a large transaction grows, what is committed goes out, so that the transaction stands alone in its batch.
  return first_ > 0 && batch_->bytes() >= limits_.publish_bytes ? want::publish : want::nothing;
}

/** False: its handler must look something up, and it is to come again. */
bool assembler::take_row(const pgoutput::change& change, std::uint64_t at) {
  if (const auto* r = std::get_if<pgoutput::relation>(&change)) {
    if (rows_) rows_->relation(now_, *r);
    return true;
  }
  const auto before = batch_->events().size();
  std::uint32_t changes = 1;
  const bool wanted = rows_ && !dropping_;
  if (const auto* i = std::get_if<pgoutput::insert>(&change)) {
    if (wanted && !rows_->insert(now_, *i, *batch_)) return false;
  } else if (const auto* u = std::get_if<pgoutput::update>(&change)) {
    if (wanted && !rows_->update(now_, *u, *batch_)) return false;
  } else if (const auto* d = std::get_if<pgoutput::delete_>(&change)) {
    if (wanted && !rows_->delete_(now_, *d, *batch_)) return false;
  } else if (const auto* t = std::get_if<pgoutput::truncate>(&change)) {
    changes = t->count;
    if (wanted) rows_->truncate(now_, *t, *batch_);
  } else {
    return true;  // a type, an origin
  }
  if (record_.begins != at) record_ = {at, ordinal_, before - first_};
  number_new_events(before);
  ordinal_ += changes;
  return true;
}

void assembler::number_new_events(std::size_t before) {
  for (auto* const e : batch_->events().subspan(before)) e->at.index += ordinal_;
}

std::uint64_t assembler::widened(std::uint32_t xid) const {
  // Live transaction ids lie within 2^31 of each other.
  return wide_xid_ +
         static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(xid - static_cast<std::uint32_t>(wide_xid_))));
}

void assembler::begin(std::uint32_t xid, unix_micros commit_time, unix_micros sent) {
  wide_xid_ = widened(xid);
  last_ = {commit_time, sent};
  open_ = true;
  dropping_ = mended_ = false;
  ordinal_ = 0;
  first_ = batch_->events().size();
  bytes_before_ = batch_->bytes();
  now_ = {wide_xid_, commit_time, first_};
  record_ = {};
}

/** The open transaction's events so far get their position and count as committed. */
void assembler::place_open_events(std::uint64_t end_lsn) {
  const auto events = batch_->events().subspan(first_);
  for (auto* const e : events) {
    e->at.epoch = epoch_;
    e->at.lsn = end_lsn;
    e->xid = now_.xid;
  }
  const auto fresh = std::ranges::find_if(events, [&](const bus::event* e) { return e->at > handed_out_; });
  const auto known = static_cast<std::size_t>(fresh - events.begin());
  if (rows_) rows_->committed(events, known);
  batch_->drop(first_, known);
  first_ = now_.first_event = batch_->events().size();
}

result<assembler::want> assembler::commit(const pgoutput::commit& c) {
  open_ = false;
  known_end_.reset();
  unfinished_ = 0;
  const bus::position end{epoch_, c.end_lsn, bus::position::end_of_commit};
  const auto before = std::exchange(applied_, std::max(applied_, end));
  resume_lsn_ = std::max(resume_lsn_, c.end_lsn);
  if (dropping_) {
    lost_ = {before, end, now_.xid, mended_};
    if (rows_) rows_->lost(end);
    return want::announce;
  }
  place_open_events(c.end_lsn);
  if (rows_) rows_->completed();
  if (mended_) {
    lost_ = {before, end, now_.xid, true};
    if (rows_) rows_->lost(end);
    return want::announce;
  }
  return batch_->bytes() >= limits_.publish_bytes && first_ > 0 ? want::publish : want::nothing;
}

result<> assembler::begin_streamed(std::uint32_t xid, const pgoutput::commit& at, unix_micros sent) {
  if (open_) return broken("a streamed commit within a transaction");
  begin(xid, at.commit_time, sent);
  known_end_ = at;
  return {};
}

bool assembler::piece_is_full(std::uint64_t next) {
  if (batch_->bytes() < limits_.publish_bytes || (next != 0 && next == record_.begins)) return false;
  place_open_events(known_end_->end_lsn);
  unfinished_ = known_end_->end_lsn;
  record_ = {};
  if (batch_->empty()) batch_ = std::make_shared<bus::batch>();  // all of it was handed out before: its memory goes
  return true;
}

result<assembler::want> assembler::take_streamed(std::string_view payload, std::uint64_t at) {
  const auto change = pgoutput::decode(payload);
  if (!change) return change.error();
  if (std::holds_alternative<pgoutput::begin>(*change) || std::holds_alternative<pgoutput::commit>(*change))
    return broken("begin or commit within a streamed transaction");
  return take_change(*change, at);
}

result<assembler::want> assembler::end_streamed() { return commit(pgoutput::commit{*known_end_}); }

result<assembler::want> assembler::lose_streamed(std::uint32_t xid, const pgoutput::commit& at) {
  auto begun = begin_streamed(xid, at, at.commit_time);
  if (!begun) return begun.error();
  dropping_ = true;
  return end_streamed();
}

void assembler::drop(metrics::counter why, const char* what) {
  metrics::add(why);
  log::debug("changes", "a message under our prefix is dropped: {}", what);
}

void assembler::take_message(const pgoutput::message& m, std::uint64_t at) {
  const auto before = batch_->events().size();
  take_text(m);
  number_new_events(before);
  if (!m.transactional || !m.prefix.starts_with(prefix)) return;
  if (at != 0 && at == record_.begins && !dropping_) move_before_record(before);
  ++ordinal_;
}

/** The message just taken, and its event where it made one (number `message`), go before the record that the last rows came from. */
void assembler::move_before_record(std::size_t message) {
  const auto rows = first_ + record_.events;
  for (auto* const e : batch_->events().subspan(rows, message - rows)) ++e->at.index;
  const bool told = batch_->events().size() > message;
  if (told) {
    batch_->events()[message]->at.index = record_.ordinal;
    batch_->move_last_to(rows);
    if (rows_) rows_->moved(record_.events);
  }
  ++record_.ordinal;
  record_.events += told ? 1 : 0;
}

void assembler::take_text(const pgoutput::message& m) {
  if (!m.prefix.starts_with(prefix)) return;
  const auto name = m.prefix.substr(prefix.size());
  if (name == "flush") return;
  if (!m.transactional || !open_) return drop(metrics::counter::dropped_immediate, "it is not transactional");
  if (name == "publication") republished_ = true;
  if (name == "mended") mended_ = true;
  const bool json = name.starts_with("j:");
  if (!json && !name.starts_with("t:")) {
    if (rows_) rows_->internal(now_, name, m.content);
    return;
  }
  if (dropping_) return;
  const auto channel = name.substr(2);
  if (channel.empty() || channel != checked_channel_) {
    if (!bus::check_post_channel(channel)) return drop(metrics::counter::dropped_channel, "its channel is reserved or malformed");
    checked_channel_ = channel;
  }
  if (!is_utf8(m.content) || (json && !is_json(m.content)))
    return drop(metrics::counter::dropped_content, "it is no UTF-8 text, or no JSON");
  const auto form = json ? bus::payload_form::json : bus::payload_form::text;
  batch_->add(channel, bus::kind::message, form, m.content, {}, now_.time);
}

void assembler::check_size() {
  if (dropping_ || known_end_ || batch_->bytes() - bytes_before_ <= limits_.transaction_bytes) return;
  dropping_ = true;
  batch_->keep_first(first_);
  if (first_ == 0) batch_ = std::make_shared<bus::batch>();  // gives the memory back
  if (rows_) rows_->abandoned();
}

std::shared_ptr<bus::batch> assembler::committed() {
  const auto ready = open_ ? first_ : batch_->events().size();
  if (ready == 0) return nullptr;
  auto out = std::exchange(batch_, std::make_shared<bus::batch>());
  handed_out_ = out->events()[ready - 1]->at;
  for (const auto* const e : out->events().subspan(ready)) batch_->add_copy(*e, *out);
  out->keep_first(ready);
  first_ = now_.first_event = 0;
  bytes_before_ = 0;
  return out;
}

void assembler::stop() {
  if (open_) {
    batch_->keep_first(first_);
    if (rows_ && !dropping_) rows_->abandoned();
  }
  open_ = dropping_ = false;
  known_end_.reset();
  first_ = batch_->events().size();
}

}  // namespace postbus::changes
