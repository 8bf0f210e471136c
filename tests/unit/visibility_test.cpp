#include "changes/visibility.hpp"

#include <gtest/gtest.h>

namespace postbus::changes {
namespace {

using namespace std::chrono_literals;

bus::position at(std::uint64_t lsn, std::uint32_t index = 0) { return {7, lsn, index}; }
snapshot taken(std::string_view text) { return snapshot::parse(text).value(); }

/** A tracker whose start is known, with nobody writing then. */
struct visibility_fixture : testing::Test {
  visibility_fixture() { start({}); }
  void start(const std::vector<visibility::writer>& writers) { v.answer(v.ask(now), taken("10:10:"), &writers); }
  visibility v{{.transactions = 8}};
  steady::time_point now = steady::now();
};

TEST(visible_snapshot, is_read_from_text) {
  const auto s = taken("10:20:10,14,19");
  EXPECT_TRUE(s.sees(9));
  EXPECT_FALSE(s.sees(10));
  EXPECT_TRUE(s.sees(11));
  EXPECT_FALSE(s.sees(14));
  EXPECT_FALSE(s.sees(20));
  EXPECT_FALSE(taken("10:10:").sees(10)) << "a transaction that waits alone for its standby has the id xmax";
  EXPECT_TRUE(taken("4294967300:4294967301:").sees(4294967299));
  for (const auto* text : {"", "10", "10:", "10:20", "10:20:x", "10:20:14,", "10:20:14,13", "-1:2:"})
    EXPECT_FALSE(snapshot::parse(text)) << text;
}

TEST_F(visibility_fixture, joins_behind_the_first_transaction_that_is_not_seen) {
  v.streamed(10, at(100));
  v.streamed(12, at(120, 3));
  v.streamed(11, at(140));
  visibility::fill first{v};
  ASSERT_TRUE(first.arrived(taken("11:13:12")));
  EXPECT_EQ(first.join(at(200)).value(), at(120, 2));
  EXPECT_EQ(v.transactions(), 1u) << "what the snapshot sees need not be kept";
  visibility::fill second{v};
  ASSERT_TRUE(second.arrived(taken("13:13:")));
  EXPECT_EQ(second.join(at(200)).value(), at(200));
  v.streamed(13, at(220));
  v.streamed(14, at(240));
  EXPECT_EQ(second.join(at(300)).value(), at(219, bus::position::end_of_commit)) << "streamed later: not seen";
}

TEST_F(visibility_fixture, keeps_what_a_fill_under_way_may_need) {
  v.streamed(10, at(100));
  visibility::fill slow{v};
  v.answer(v.ask(now), taken("11:11:"), nullptr);
  EXPECT_EQ(v.transactions(), 1u);
  ASSERT_TRUE(slow.arrived(taken("10:10:"))) << "taken before the answer";
  EXPECT_EQ(slow.join(at(200)).value(), at(99, bus::position::end_of_commit));
}

TEST_F(visibility_fixture, asks_only_while_there_is_something_to_find_out) {
  EXPECT_EQ(v.due(), steady::time_point::max());
  v.streamed(10, at(100));
  EXPECT_EQ(v.due(), now + 1s);
  v.answer(v.ask(now + 1s), taken("11:11:"), nullptr);
  EXPECT_EQ(v.due(), steady::time_point::max());
  v.restarted();
  EXPECT_LE(v.due(), now);
  EXPECT_TRUE(v.wants_writers());
  v.answer(v.ask(now), taken("11:11:"), nullptr);
  EXPECT_TRUE(v.wants_writers());
  EXPECT_EQ(v.due(), now + 1s);
}

TEST_F(visibility_fixture, a_new_stream_waits_for_those_who_wrote_at_its_start) {
  visibility::fill before{v};
  ASSERT_TRUE(before.arrived(taken("11:11:")));
  v.restarted();
  EXPECT_EQ(before.join(at(200)).error().code, errc::unavailable);
  EXPECT_FALSE(visibility::fill{v}.arrived(taken("13:13:"))) << "nothing is known yet";
  start({{11, "pid 4711 (nightly)"}, {12, "pid 4712"}});
  v.streamed(12, at(100));  // it committed later, and here it is
  const auto refused = visibility::fill{v}.arrived(taken("11:13:11"));
  EXPECT_NE(refused.error().text.find("pid 4711 (nightly)"), std::string::npos);
  visibility::fill later{v};
  ASSERT_TRUE(later.arrived(taken("12:13:12")));
  EXPECT_EQ(later.join(at(200)).value(), at(99, bus::position::end_of_commit));
}

TEST_F(visibility_fixture, answers_to_questions_from_before_the_start_do_not_count) {
  const auto early = v.ask(now);
  v.restarted();
  const std::vector<visibility::writer> nobody;
  v.answer(early, taken("10:10:"), &nobody);
  EXPECT_TRUE(v.wants_writers());
}

TEST_F(visibility_fixture, refuses_when_there_is_too_much_to_keep) {
  visibility::fill joined{v};
  ASSERT_TRUE(joined.arrived(taken("10:10:")));
  visibility::fill waiting{v};
  for (std::uint64_t xid = 10; xid < 19; ++xid) v.streamed(xid, at(xid * 10));
  EXPECT_EQ(v.transactions(), 1u);
  EXPECT_EQ(waiting.arrived(taken("10:10:")).error().code, errc::unavailable);
  EXPECT_EQ(joined.join(at(200)).value(), at(99, bus::position::end_of_commit)) << "it knew its place already";
  start({{17, "the pending one"}, {18, "streamed and known"}});
  EXPECT_FALSE(visibility::fill{v}.arrived(taken("17:18:17")));
  visibility::fill after{v};
  ASSERT_TRUE(after.arrived(taken("18:18:")));
  EXPECT_EQ(after.join(at(200)).value(), at(179, bus::position::end_of_commit));
}

}  // namespace
}  // namespace postbus::changes
