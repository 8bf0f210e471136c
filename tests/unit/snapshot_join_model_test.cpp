// A model of PostgreSQL, the stream and the gateway in which everything that may happen apart does: a transaction takes its
// id, its commit goes into the WAL, the WAL is flushed, the stream brings it, and it becomes visible; a snapshot is asked
// for, taken, received and joined; snapshots that only help to forget likewise; history goes; the stream starts anew.
// Each transaction inserts one row, named by its id. A client takes the rows, then what the join gives it, then what is
// live; at the end it must hold exactly what is committed, each row once.
//
// The same runs under rules that are broken on purpose must find a client that does not.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <set>

#include "changes/visibility.hpp"

namespace postbus::changes {
namespace {

enum class rule {
  right,
  lsn_alone,           // what committed before L is in the rows
  no_ring,             // what was streamed before the join is in the rows
  forgotten_early,     // a snapshot obtained while another is on its way may make the tracker forget
  running_ignored,     // S.xip is not looked at
  start_ignored,       // a new stream joins at once
  start_by_xmax,       // a new stream joins snapshots with S.xmin >= S0.xmax
};

void PrintTo(rule r, std::ostream* out) {
  constexpr std::array names{"right", "lsn_alone", "no_ring", "forgotten_early", "running_ignored", "start_ignored", "start_by_xmax"};
  *out << names[static_cast<std::size_t>(r)];
}

struct outcome {
  int verified{}, wrong{}, refused{}, reset{}, from_ring{};
  void operator+=(const outcome& o) {
    verified += o.verified;
    wrong += o.wrong;
    refused += o.refused;
    reset += o.reset;
    from_ring += o.from_ring;
  }
};

class model {
public:
  model(std::uint64_t seed, rule r) : random_{seed}, rule_{r}, tracker_{{.transactions = below(3) == 0 ? 3u : 1000u}} {
    tracker_.restarted();
    for (std::uint64_t i = below(3); i > 0; --i) begin();  // some are under way when the stream starts
    if (below(2) == 0) log_commit();
    restart();
  }

  outcome run() {
    for (int step = 0; step < 120; ++step) random_step();
    settle();
    for (const auto& c : clients_)
      if (c.live) {
        ++result_.verified;
        if (c.doubled || c.rows != committed_) ++result_.wrong;
      }
    return result_;
  }

private:
  struct tx {
    std::uint64_t xid;
    std::uint64_t lsn{};  // of its commit; 0: not logged
  };
  struct client {
    enum class at { sent, taken, received, done } state{at::sent};
    std::unique_ptr<visibility::fill> fill;
    snapshot seen;
    std::uint64_t l{};
    std::multiset<std::uint64_t> rows;
    bool live{}, doubled{};
  };

  std::uint64_t below(std::uint64_t n) { return random_() % n; }

  // --- PostgreSQL
  void begin() { in_proc_array_.push_back({next_xid_++}); }
  void log_commit() {
    std::vector<tx*> running;
    for (auto& t : in_proc_array_)
      if (t.lsn == 0) running.push_back(&t);
    if (running.empty()) return;
    auto& t = *running[below(running.size())];
    t.lsn = insert_lsn_ += 10;
    wal_.push_back(t);
    committed_.insert(t.xid);
  }
  void leave(std::size_t i) {
    latest_completed_ = std::max(latest_completed_, in_proc_array_[i].xid);
    if (in_proc_array_[i].lsn != 0) visible_.insert(in_proc_array_[i].xid);
    in_proc_array_.erase(in_proc_array_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void become_visible_or_abort() {
    if (in_proc_array_.empty()) return;
    const auto i = below(in_proc_array_.size());
    if (in_proc_array_[i].lsn != 0 || below(4) == 0) leave(i);
  }
  snapshot take() const {
    snapshot s;
    s.xmax = latest_completed_ + 1;
    for (const auto& t : in_proc_array_)
      if (t.xid < s.xmax) s.running.push_back(t.xid);
    std::ranges::sort(s.running);
    s.xmin = s.running.empty() ? s.xmax : s.running.front();
    return s;
  }

  // --- the stream
  void deliver() {
    if (delivered_ == flushed_) return;
    const auto& t = wal_[delivered_++];
    tracker_.streamed(t.xid, {1, t.lsn, 0});
    history_.push_back(t);
    head_ = {1, t.lsn, bus::position::end_of_commit};
    for (auto& c : clients_)
      if (c.live) add(c, t.xid);
  }
  void keep_alive() {
    if (delivered_ == flushed_ && flushed_ == wal_.size()) head_ = std::max(head_, {1, insert_lsn_, bus::position::end_of_commit});
  }
  /** The new stream begins behind everything that is in the WAL: listeners are told of a gap and are no business of ours. */
  void restart() {
    flushed_ = delivered_ = wal_.size();
    head_ = {1, insert_lsn_, bus::position::end_of_commit};
    history_.clear();
    floor_ = insert_lsn_;
    for (auto& c : clients_) c.live = false;
    tracker_.restarted();
    if (below(2) == 0) question_.reset();  // else its answer comes to a stream that it does not know
    start_xmax_.reset();
  }

  // --- the gateway
  void ask() {
    if (!question_)
      question_ = {tracker_.ask({}), tracker_.wants_writers(), {}, {}};
    else if (!question_->taken) {
      question_->taken = take();
      for (const auto& t : in_proc_array_) question_->writers.push_back({t.xid, ""});
    } else {
      if (question_->with_writers && !start_xmax_) start_xmax_ = question_->taken->xmax;
      if (rule_ == rule::start_ignored || rule_ == rule::start_by_xmax) question_->writers.clear();
      tracker_.answer(question_->id, *question_->taken, question_->with_writers ? &question_->writers : nullptr);
      question_.reset();
    }
  }
  void send_fill() {
    if (clients_.size() == 3) return;
    clients_.emplace_back();
    if (rule_ != rule::forgotten_early) clients_.back().fill = std::make_unique<visibility::fill>(tracker_);
  }
  void advance(client& c) {
    using enum client::at;
    if (c.state == sent) {
      c.seen = take();
      c.l = insert_lsn_;
      c.rows.insert(visible_.begin(), visible_.end());
      c.state = taken;
    } else if (c.state == taken) {
      auto judged = c.seen;
      if (!c.fill) c.fill = std::make_unique<visibility::fill>(tracker_);
      if (rule_ == rule::running_ignored) judged.running.clear(), judged.xmin = judged.xmax;
      const bool by_xmax = rule_ != rule::start_by_xmax || (start_xmax_ && judged.xmin >= *start_xmax_);
      if (!by_xmax || !c.fill->arrived(judged)) {
        ++result_.refused;
        return drop(c);
      }
      c.state = received;
    } else if (c.state == received && head_.lsn >= c.l) {
      const auto from = c.fill->join(head_);
      if (!from) {
        ++result_.reset;
        return drop(c);
      }
      auto after = *from;
      if (rule_ == rule::no_ring) after = head_;
      if (rule_ == rule::lsn_alone) after = {1, c.l, bus::position::end_of_commit};
      if (after.lsn < floor_) {
        ++result_.reset;
        return drop(c);
      }
      if (after < head_) ++result_.from_ring;
      for (const auto& t : history_)
        if (bus::position{1, t.lsn, 0} > after && (rule_ == rule::lsn_alone || !c.fill->taken().sees(t.xid))) add(c, t.xid);
      c.fill.reset();
      c.live = true;
      c.state = done;
    }
  }
  static void add(client& c, std::uint64_t xid) {
    if (c.rows.contains(xid)) c.doubled = true;
    c.rows.insert(xid);
  }
  void drop(client& c) {
    c.fill.reset();
    c.state = client::at::done;
    c.live = false;
  }
  void evict() {
    if (history_.empty()) return;
    floor_ = std::max(floor_, history_.front().lsn);
    history_.erase(history_.begin());
  }

  void random_step() {
    switch (below(16)) {
      case 0:
      case 1:
        if (in_proc_array_.size() < 4) begin();
        break;
      case 2:
      case 3: log_commit(); break;
      case 4:
      case 5: become_visible_or_abort(); break;
      case 6: flushed_ = std::min(flushed_ + 1, wal_.size()); break;
      case 7:
      case 8: deliver(); break;
      case 9: keep_alive(); break;
      case 10: send_fill(); break;
      case 11:
      case 12:
        if (!clients_.empty()) advance(clients_[below(clients_.size())]);
        break;
      case 13: ask(); break;
      case 14:
        if (below(8) == 0) evict();
        break;
      case 15:
        if (below(12) == 0)
          restart();
        else
          insert_lsn_ += 5;
        break;
    }
  }
  /** Everything that is under way ends. */
  void settle() {
    while (!in_proc_array_.empty()) leave(0);
    flushed_ = wal_.size();
    while (delivered_ < flushed_) deliver();
    keep_alive();
    for (int i = 0; i < 3; ++i) {
      ask();
      for (auto& c : clients_) advance(c);
    }
  }

  std::mt19937_64 random_;
  rule rule_;
  visibility tracker_;
  std::uint64_t next_xid_{100}, latest_completed_{99}, insert_lsn_{1000}, floor_{};
  std::vector<tx> in_proc_array_, wal_, history_;
  std::multiset<std::uint64_t> committed_, visible_;
  std::size_t flushed_{}, delivered_{};
  bus::position head_{};
  struct question {
    std::uint64_t id;
    bool with_writers;
    std::optional<snapshot> taken;
    std::vector<visibility::writer> writers;
  };
  std::optional<question> question_;
  std::optional<std::uint64_t> start_xmax_;
  std::vector<client> clients_;
  outcome result_;
};

outcome explore(rule r, std::uint64_t runs) {
  outcome all;
  for (std::uint64_t seed = 1; seed <= runs; ++seed) all += model{seed, r}.run();
  return all;
}

constexpr std::uint64_t runs = 40'000;

TEST(snapshot_join_model, no_row_is_missing_and_none_comes_twice) {
  const auto all = explore(rule::right, runs);
  EXPECT_EQ(all.wrong, 0);
  EXPECT_GT(all.verified, 10'000) << "the model must reach what it is about";
  EXPECT_GT(all.from_ring, 1'000);
  EXPECT_GT(all.refused, 1'000);
  EXPECT_GT(all.reset, 100);
  RecordProperty("verified", all.verified);
}

struct broken_rule : testing::TestWithParam<rule> {};

TEST_P(broken_rule, is_found_out) {
  const auto all = explore(GetParam(), runs);
  EXPECT_GT(all.verified, 5'000);
  EXPECT_GT(all.wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(snapshot_join_model, broken_rule,
                         testing::Values(rule::lsn_alone, rule::no_ring, rule::forgotten_early, rule::running_ignored, rule::start_ignored,
                                         rule::start_by_xmax));

}  // namespace
}  // namespace postbus::changes
