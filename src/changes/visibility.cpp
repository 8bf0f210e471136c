// Why this is needed. PostgreSQL makes a commit's WAL durable before it makes the commit visible, and the stream carries
// what is durable: a transaction may be read here milliseconds before a snapshot sees it, and with a synchronous standby
// that does not answer, hours before. WAL positions therefore cannot tell whether rows hold a transaction. Its id can:
//
//   seen by S = xid < S.xmin, or xid < S.xmax and not in S.xip        (the wide id of the top-level transaction)
//
// The rule. Rows are read under S; L is the WAL insert position in the same statement. Whatever S sees had its commit
// record before L. So once the stream has passed L: of all that it has brought so far, what S does not see comes behind
// the rows; and so does everything it brings later.
//
// What was brought before the rows were asked for must be remembered for that: `recent_`. An entry may go when it is seen
// by some snapshot that was *obtained* before the oldest fill whose snapshot is still awaited was *sent*, since what is
// visible stays so. When a fill's snapshot arrives its first unseen entry is found at once, and from then on it holds
// nothing back, however long its rows take.
//
// At the start of a stream, transactions may stand in the WAL before it that no snapshot sees yet and that were never in
// `recent_`. They held their ids before the stream began and give up the lock on them only after they have become
// visible. So the ids locked at one moment after the start, `suspects_`, hold them all: a snapshot that sees every suspect
// (or whose suspects the stream has brought meanwhile) has missed nothing, if it was taken after that moment. The snapshot's own xmax would not do: a
// transaction that waits for its standby alone has an id equal to it, and the next snapshot's xmin is no larger.
//
// Source: PostgreSQL, src/backend/access/transam/xact.c (RecordTransactionCommit, ProcArrayEndTransaction, then the locks).
#include "changes/visibility.hpp"

#include <algorithm>
#include <charconv>

namespace postbus::changes {

bool snapshot::sees(std::uint64_t xid) const { return xid < xmin || (xid < xmax && !std::ranges::binary_search(running, xid)); }

result<snapshot> snapshot::parse(std::string_view text) {
  const error broken{errc::protocol, "the database told no snapshot"};
  const auto number = [&text](std::uint64_t& value, char end, bool optional_end) {
    const auto [stop, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed != std::errc{}) return false;
    text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
    if (text.empty()) return optional_end;
    if (text.front() != end) return false;
    text.remove_prefix(1);
    return true;
  };
  snapshot s;
  if (!number(s.xmin, ':', false) || !number(s.xmax, ':', false)) return broken;
  if (text.ends_with(',')) return broken;
  while (!text.empty())
    if (!number(s.running.emplace_back(), ',', true)) return broken;
  if (!std::ranges::is_sorted(s.running)) return broken;
  return s;
}

/** What was read so far is not told apart any more: as at a start. */
void visibility::lose_track(bool joined_fills_too) {
  ++generation_;
  recent_.clear();
  suspects_.clear();
  started_ = false;
  asked_ = {};
  for (auto* const f : fills_)
    if (joined_fills_too || !f->taken_) f->lost_ = true;
}

void visibility::restarted() {
  newest_.reset();
  lose_track(true);
}

void visibility::streamed(std::uint64_t xid, const bus::position& at) {
  if (!recent_.empty() && recent_.back().xid == xid) return;
  std::erase_if(suspects_, [&](const writer& w) { return w.xid == xid; });
  for (auto* const f : fills_)
    if (f->taken_ && !f->first_ && !f->taken_->sees(xid)) f->first_ = at;
  if (recent_.size() >= limits_.transactions) lose_track(false);
  recent_.push_back({xid, at});
}

steady::time_point visibility::due() const {
  if (started_ && recent_.empty()) return steady::time_point::max();
  return asked_ == steady::time_point{} ? asked_ : asked_ + limits_.ask_every;
}

std::uint64_t visibility::ask(steady::time_point now) {
  asked_ = now;
  return generation_;
}

void visibility::answer(std::uint64_t question, snapshot seen, const std::vector<writer>* writers) {
  if (question != generation_) return;  // asked before what the start is counted from
  if (!started_ && writers != nullptr) {
    suspects_ = *writers;
    for (const auto& e : recent_) std::erase_if(suspects_, [&](const writer& w) { return w.xid == e.xid; });
    started_ = true;
  }
  newest_ = std::move(seen);
  prune();
}

void visibility::prune() {
  if (!newest_ || std::ranges::any_of(fills_, [](const fill* f) { return !f->taken_ && !f->lost_; })) return;
  std::erase_if(recent_, [&](const entry& e) { return newest_->sees(e.xid); });
  std::erase_if(suspects_, [&](const writer& w) { return newest_->sees(w.xid); });
  if (recent_.empty() && recent_.capacity() > 4096) recent_ = {};
}

visibility::fill::fill(visibility& of) : of_{of}, lost_{!of.started_} { of_.fills_.push_back(this); }

visibility::fill::~fill() {
  std::erase(of_.fills_, this);
  of_.prune();
}

result<> visibility::fill::arrived(snapshot s) {
  if (lost_)
    return error{errc::unavailable,
                 "the stream of changes has just begun, or has more under way than can be told apart; come back in a moment"};
  const auto unseen = std::ranges::find_if(of_.suspects_, [&](const writer& w) { return !s.sees(w.xid); });
  if (unseen != of_.suspects_.end())
    return error{errc::unavailable,
                 "a snapshot must wait for a transaction that was under way when this gateway began to read: " + unseen->who};
  const auto first = std::ranges::find_if(of_.recent_, [&](const entry& e) { return !s.sees(e.xid); });
  if (first != of_.recent_.end()) first_ = first->at;
  taken_ = s;
  of_.newest_ = std::move(s);
  of_.prune();
  return {};
}

result<bus::position> visibility::fill::join(const bus::position& head) const {
  if (lost_ || !taken_) return error{errc::unavailable, "the stream of changes broke off during the snapshot: start over"};
  if (!first_) return head;
  auto before = *first_;
  if (before.index > 0)
    --before.index;
  else
    before = {before.epoch, before.lsn - 1, bus::position::end_of_commit};
  return before;
}

}  // namespace postbus::changes
