#include "changes/slot_plan.hpp"

#include <gmock/gmock.h>

#include "changes/slot_guard.hpp"

namespace postbus::changes {
namespace {

using step = slot_plan::step;
using testing::HasSubstr;

slot_facts there() {
  return {.name = "postbus_5",
          .bounded = true,
          .published = true,
          .recorded = true,
          .exists = true,
          .usable = true,
          .lost = false,
          .active_pid = 0,
          .confirmed_lsn = 100};
}
step next(const slot_facts& facts, const slot_past& past = {}) { return plan_slot(facts, past).next; }

TEST(slot_plan, goes_on_with_one_that_is_there) { EXPECT_EQ(next(there()), step::go_on); }

TEST(slot_plan, is_permanent_only_where_the_server_bounds_it_or_one_says_so) {
  auto facts = there();
  facts.bounded = false;
  EXPECT_EQ(next(facts), step::temporary);
  EXPECT_THAT(plan_slot(facts, {}).why, HasSubstr("alter system set max_slot_wal_keep_size"));
  EXPECT_EQ(next(facts, {.wanted = slot_choice::permanent}), step::go_on);
  EXPECT_EQ(next(there(), {.wanted = slot_choice::temporary}), step::temporary);
  facts.published = false;
  EXPECT_EQ(next(facts, {.wanted = slot_choice::temporary}), step::mend) << "before anything is read by any slot";
}

TEST(slot_plan, tells_the_first_from_one_that_is_gone) {
  auto facts = there();
  facts.exists = facts.usable = false;
  EXPECT_EQ(next(facts), step::make_anew);
  facts.recorded = false;
  EXPECT_EQ(next(facts), step::make);
  facts.published = false;
  EXPECT_EQ(next(facts), step::mend) << "a slot made before its publication could never be read";
}

TEST(slot_plan, makes_another_of_what_cannot_be_read) {
  auto facts = there();
  EXPECT_EQ(next(facts, {.poisoned = true}), step::make_anew);
  EXPECT_EQ(next(facts, {.given_up = true}), step::make_anew);
  facts.publication = 17;
  facts.recorded_publication = 16;
  EXPECT_EQ(next(facts), step::make_anew) << "made under a publication that is gone, it has not brought everything";
  facts.recorded_publication = 17;
  EXPECT_EQ(next(facts), step::go_on);
  facts.lost = true;
  EXPECT_EQ(next(facts), step::make_anew);
}

TEST(slot_plan, waits_for_its_reader_and_then_takes_a_copy) {
  auto facts = there();
  facts.active_pid = 42;
  EXPECT_EQ(next(facts), step::wait);
  EXPECT_THAT(plan_slot(facts, {}).why, HasSubstr("42"));
  EXPECT_EQ(next(facts, {.waited = true}), step::copy);
  facts.confirmed_lsn = 0;
  EXPECT_EQ(next(facts, {.waited = true}), step::wait) << "it is being made: there is nothing to copy yet";
}

TEST(slot_plan, touches_no_slot_of_others) {
  auto facts = there();
  facts.usable = false;
  EXPECT_EQ(next(facts), step::temporary);
  EXPECT_EQ(next(facts, {.given_up = true}), step::temporary);
}

TEST(slot_guard, first_shortens_the_window_and_then_gives_the_slot_up) {
  using enum slot_guard::action;
  const auto judge = [](std::uint64_t retained, std::uint64_t age) {
    return slot_guard::judge({.retained_bytes = retained, .keep_bytes = 1'000, .xmin_age = age}, {}).what;
  };
  EXPECT_EQ(judge(500, 0), none);
  EXPECT_EQ(judge(501, 0), shorten_window);
  EXPECT_EQ(judge(901, 0), give_up);
  EXPECT_EQ(judge(0, 50'000'001), shorten_window);
  EXPECT_EQ(judge(0, 500'000'001), give_up);
  EXPECT_EQ(slot_guard::judge({.retained_bytes = std::uint64_t{3} << 30, .keep_bytes = 0, .xmin_age = 0}, {}).what, shorten_window)
      << "a bound where the server has none";
}

}  // namespace
}  // namespace postbus::changes
