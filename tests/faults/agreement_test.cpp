// What listeners are given is what PostgreSQL's own test_decoding tells of the same WAL: the same transactions in the same
// order, the same changes in them, the same columns and values. Ten thousand changes, with POSTBUS_SOAK=1 three hundred
// thousand; POSTBUS_SEED repeats one.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "integration/change_rig.hpp"
#include "random_workload.hpp"
#include "witness.hpp"

namespace postbus {
namespace {

using bus::kind;
using testing_support::change_rig;
using testing_support::database;
using testing_support::random_workload;
using testing_support::witness;

unsigned chosen_seed() {
  const char* const given = std::getenv("POSTBUS_SEED");
  const auto seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device{}();
  std::printf("POSTBUS_SEED=%u\n", seed);
  return seed;
}

/** What came after `from` on all channels, in one order; each channel's own order is looked at. */
std::vector<bus::event_ref> heard(change_rig& rig, const bus::position& from) {
  std::vector<bus::event_ref> all;
  for (const auto& channel : random_workload::channels()) {
    const auto given = rig.hub.history(channel, from);
    EXPECT_TRUE(given.complete);
    EXPECT_TRUE(std::ranges::is_sorted(given.events, {}, [](const auto& e) { return e->at; })) << channel;
    all.insert(all.end(), given.events.begin(), given.events.end());
  }
  std::ranges::sort(all, {}, [](const auto& e) { return e->at; });
  const auto same_place = [](const auto& a, const auto& b) { return a->at == b->at && a->kind != kind::schema && b->kind != kind::schema; };
  if (const auto twice = std::ranges::adjacent_find(all, same_place); twice != all.end())
    ADD_FAILURE() << "two events at " << bus::to_text((*twice)->at) << ", of " << (*twice)->channel << " and " << twice[1]->channel;
  return all;
}

/** What has not happened yet; a run that lacks any of it proves less than it says. */
std::string missing(const std::map<std::string, int>& done, const std::map<std::string, int>& told) {
  std::string all;
  const auto look = [&all](const std::map<std::string, int>& in, const std::string& what) {
    if (!in.contains(what)) all += what + "; ";
  };
  for (const auto* what : {"alter", "commit prepared", "rollback prepared", "rollback to", "release", "rollback", "truncate several",
                           "move", "many", "unwatched"})
    look(done, what);
  for (const auto* table : {"plain", "whole", "by_index", "parts", "Odd \"table. x"})
    for (const auto* action : {"insert", "update", "delete", "truncate"}) look(told, fmt::format("{} table:public.{}", action, table));
  for (const auto* channel : {"news", "Ä]: x", "kept"}) look(told, fmt::format("message {}", channel));
  for (const auto* table : {"plain", "parts"}) look(told, fmt::format("schema table:public.{}", table));
  return all;
}

void agree(const change_rig::adjustment& adjust, bool in_pieces) {
  const auto seed = chosen_seed();
  const std::size_t wanted = std::getenv("POSTBUS_SOAK") != nullptr ? 300'000 : 10'000;
  testing_support::cluster own{{{"max_prepared_transactions", "100"}}};
  database db{own};
  random_workload load{db, seed};
  change_rig rig{db, adjust, {.history_bytes = 512u << 20}};
  rig.start();
  witness truth{db, random_workload::feed_of};
  std::map<std::string, int> told;  // by kind and channel
  std::size_t changes = 0;
  for (int round = 0; changes < wanted || !missing(load.done(), told).empty(); ++round) {
    ASSERT_LT(changes, 10 * wanted) << "never happened: " << missing(load.done(), told);
    const auto from = rig.hub.head();
    for (int i = 0; i < 200; ++i) {
      load.step();
      rig.loop.restart();
      if (round % 2 == 0) rig.loop.poll();  // else it reads the round in arrears
    }
    load.settle();
    rig.catch_up(db);
    const auto events = heard(rig, from);
    const auto theirs = truth.account();
    const auto wrong = testing_support::difference(testing_support::account(events), theirs);
    ASSERT_TRUE(wrong.empty()) << "POSTBUS_SEED=" << seed << ", round " << round << ": " << wrong;
    for (const auto& e : events) ++told[fmt::format("{} {}", to_text(e->kind), e->channel)];
    changes += theirs.size();
  }
  const auto streamed =
      db.psql(fmt::format("select stream_txns > 0 from pg_stat_replication_slots where slot_name = '{}'", rig.reader->status().slot));
  EXPECT_EQ(streamed, in_pieces ? "t" : "f");
  std::string text;
  for (const auto& [what, count] : load.done()) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, what);
  std::printf("%zu changes agree; statements: %s\n", changes, text.c_str());
  rig.stop();
}

TEST(agreement, with_test_decoding_on_transactions_that_come_whole) { agree({}, false); }

TEST(agreement, with_test_decoding_on_transactions_that_come_in_pieces) {
  agree(
      [](changes::reader_options& o) {
        o.slot.wanted = changes::slot_choice::permanent;  // a temporary one could not go back: see changes::reader::take_streamed
        o.decoding_kib = 64;  // the least there is
        o.limits = {.publish_bytes = 50'000, .transaction_bytes = 64u << 20};
        o.spill.memory = 100'000;
      },
      true);
}

}  // namespace
}  // namespace postbus
