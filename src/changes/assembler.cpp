// From frames to batches; a transaction's life here:
//
// 1. Begin tells its xid, which is widened, and its commit time. It does not tell where the commit ends.
// 2. Messages under our prefix become events of their channel; rows go to the row handler, which appends events of its
//    own. Until the commit they carry no position and stand behind the committed events of the same batch.
// 3. Commit tells the end LSN: (epoch, end LSN, index) is set on each of them, and they count as committed.
// 4. `committed` hands the batch out. Where an open transaction has events in it already (the socket ran dry in the
//    middle of one), they are copied into the next batch first; at most `publish_bytes` and a frame are ever copied.
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

error broken(const char* what) {
  return {errc::protocol, "the replication stream is broken; the connection will be made anew", what};
}

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
  if (!rows_) return;
  rows_->begins_at(applied_);
  rows_->started(server_version);
}

result<assembler::want> assembler::take(const pgoutput::frame& frame) {
  if (const auto* data = std::get_if<pgoutput::xlog_data>(&frame)) return take_data(*data);
  // Within a transaction the server may speak of WAL whose commits it has not sent.
  const auto& alive = std::get<pgoutput::keepalive>(frame);
  if (!open_) applied_ = std::max(applied_, {epoch_, over_page_header(alive.wal_end), bus::position::end_of_commit});
  return want::nothing;
}

result<assembler::want> assembler::take_data(const pgoutput::xlog_data& data) {
  const auto decoded = pgoutput::decode(data.payload);
  if (!decoded) return decoded.error();
  const auto& change = *decoded;
  if (const auto* m = std::get_if<pgoutput::message>(&change)) {
    take_message(*m);
  } else if (const auto* b = std::get_if<pgoutput::begin>(&change)) {
    if (open_) return broken("begin within a transaction");
    begin(*b, data.sent);
    return want::nothing;
  } else if (const auto* c = std::get_if<pgoutput::commit>(&change)) {
    return commit(*c);
  } else if (rows_) {
    if (!open_) return broken("a change outside of a transaction");
    if (const auto* r = std::get_if<pgoutput::relation>(&change)) rows_->relation(*r);
    if (dropping_) return want::nothing;
    if (const auto* i = std::get_if<pgoutput::insert>(&change)) rows_->insert(now_, *i, *batch_);
    if (const auto* u = std::get_if<pgoutput::update>(&change)) rows_->update(now_, *u, *batch_);
    if (const auto* d = std::get_if<pgoutput::delete_>(&change)) rows_->delete_(now_, *d, *batch_);
    if (const auto* t = std::get_if<pgoutput::truncate>(&change)) rows_->truncate(now_, *t, *batch_);
  }
  if (open_) check_size();
  if (rows_ && rows_->wants_to_resolve()) return want::resolve;
  // Before a large transaction grows, what is committed goes out, so that the transaction stands alone in its batch.
  return first_ > 0 && batch_->bytes() >= limits_.publish_bytes ? want::publish : want::nothing;
}

void assembler::begin(const pgoutput::begin& b, unix_micros sent) {
  // Live transaction ids lie within 2^31 of each other.
  wide_xid_ += static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(b.xid - static_cast<std::uint32_t>(wide_xid_))));
  last_ = {b.commit_time, sent};
  open_ = true;
  dropping_ = false;
  first_ = batch_->events().size();
  bytes_before_ = batch_->bytes();
  now_ = {wide_xid_, b.commit_time, first_};
}

result<assembler::want> assembler::commit(const pgoutput::commit& c) {
  if (!open_) return broken("commit outside of a transaction");
  open_ = false;
  const bus::position end{epoch_, c.end_lsn, bus::position::end_of_commit};
  if (dropping_) {
    lost_ = {applied_, end, now_.xid};
    applied_ = std::max(applied_, end);
    return want::announce;
  }
  applied_ = std::max(applied_, end);
  const auto events = batch_->events().subspan(first_);
  std::uint32_t index = 0;
  for (auto* const e : events) e->at = {epoch_, c.end_lsn, index++};
  if (rows_) rows_->committed(events);
  first_ = batch_->events().size();
  return batch_->bytes() >= limits_.publish_bytes && first_ > 0 ? want::publish : want::nothing;
}

void assembler::drop(metrics::counter why, const char* what) {
  metrics::add(why);
  log::debug("changes", "a message under our prefix is dropped: {}", what);
}

void assembler::take_message(const pgoutput::message& m) {
  if (!m.prefix.starts_with(prefix)) return;
  const auto name = m.prefix.substr(prefix.size());
  if (name == "flush") return;
  if (!m.transactional || !open_) return drop(metrics::counter::dropped_immediate, "it is not transactional");
  if (dropping_) return;
  const bool json = name.starts_with("j:");
  if (!json && !name.starts_with("t:")) {
    if (rows_) rows_->internal(now_, name, m.content);
    return;
  }
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
  if (dropping_ || batch_->bytes() - bytes_before_ <= limits_.transaction_bytes) return;
  dropping_ = true;
  batch_->keep_first(first_);
  if (first_ == 0) batch_ = std::make_shared<bus::batch>();  // gives the memory back
  if (rows_) rows_->abandoned();
}

std::shared_ptr<bus::batch> assembler::committed() {
  const auto ready = open_ ? first_ : batch_->events().size();
  if (ready == 0) return nullptr;
  auto out = std::exchange(batch_, std::make_shared<bus::batch>());
  for (const auto* const e : out->events().subspan(ready)) batch_->add(e->channel, e->kind, e->form, e->payload, e->at, e->time);
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
  first_ = batch_->events().size();
}

}  // namespace postbus::changes
