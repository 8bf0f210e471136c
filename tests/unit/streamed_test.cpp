#include "changes/streamed.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace postbus::changes {
namespace {

namespace pgoutput = postgres::pgoutput;

pgoutput::streamed_message message(std::uint32_t xid, std::string_view body) { return {.xid = xid, .tag = 'M', .body = body}; }

std::vector<std::string> read(kept_transaction& kept) {
  std::vector<std::string> all;
  for (;;) {
    auto next = kept.next();
    EXPECT_TRUE(next.has_value());
    if (!next || !*next) return all;
    all.push_back(fmt::format("{}@{}", (**next).payload, (**next).at));
  }
}

class kept : public testing::TestWithParam<std::size_t> {
protected:
  spill_limits limits_{.memory = GetParam(), .disk = 100'000'000, .folder = {}};
  spill_account account_ = std::make_shared<std::uint64_t>();
};

TEST_P(kept, gives_back_what_it_was_given_without_what_was_undone) {
  {
    kept_transaction it{limits_, account_};
    std::vector<std::string> expected;
    for (std::uint32_t i = 0; i < 20'000; ++i) {
      const auto body = fmt::format("{}:{}", i, std::string(i % 300, 'x'));
      const std::uint32_t xid = 740 + i % 3;
      it.add(message(xid, body), i);
      if (xid != 741) expected.push_back(fmt::format("M{}@{}", body, i));
    }
    const std::string large(3'000'000, 'y');
    it.add(message(740, large), 77);
    expected.push_back("M" + large + "@77");
    it.undo(741);
    if (GetParam() < 1'000'000) EXPECT_GT(*account_, 1'000'000u);
    EXPECT_EQ(read(it), expected);
    EXPECT_EQ(it.lost(), "");
  }
  EXPECT_EQ(*account_, 0u);
}
INSTANTIATE_TEST_SUITE_P(in_memory_and_on_disk, kept, testing::Values(1, 100'000, 1'000'000'000));

TEST(kept_bounds, beyond_the_disks_share_or_without_a_folder_it_is_lost_and_says_why) {
  const auto account = std::make_shared<std::uint64_t>();
  const spill_limits small{.memory = 1'000, .disk = 5'000, .folder = {}};
  kept_transaction it{small, account};
  const std::string body(2'000, 'x');
  for (int i = 0; i < 2'000; ++i) it.add(message(1, body), 0);
  EXPECT_NE(it.lost().find("--spill-bytes"), std::string::npos);
  EXPECT_EQ(*account, 0u) << "and takes no room any more";
  const spill_limits nowhere{.memory = 1'000, .disk = 5'000, .folder = "/nonexistent/folder"};
  kept_transaction other{nowhere, account};
  other.add(message(1, body), 0);
  EXPECT_NE(other.lost(), "");
}

// pgoutput_stream_start: the origin of what a subscription, or a session with an origin, wrote. It has no xid.
TEST(streamed, passes_over_the_origin_at_a_blocks_begin) {
  streamed_transactions all{{}};
  ASSERT_TRUE(all.start({.xid = 740, .first = true}));
  ASSERT_TRUE(all.take(std::string_view{"O\0\0\0\0\0\0\0\0elsewhere\0", 19}, 0));
  EXPECT_TRUE(all.in_block());
  ASSERT_TRUE(all.take("E", 0));
  auto kept = all.take_out(740);
  ASSERT_TRUE(kept.has_value());
  EXPECT_TRUE(read(**kept).empty());
}

TEST(streamed, keeps_transactions_apart_and_forgets_what_was_rolled_back) {
  streamed_transactions all{{}};
  const auto block = [&](std::uint32_t xid, bool first, std::string_view body) {
    ASSERT_TRUE(all.start({.xid = xid, .first = first}));
    EXPECT_TRUE(all.in_block());
    std::string frame{"M"};
    frame.append({'\0', '\0', '\0', static_cast<char>(xid)}).append(body);
    ASSERT_TRUE(all.take(frame, 5));
    ASSERT_TRUE(all.take("E", 0));
    EXPECT_FALSE(all.in_block());
  };
  block(1, true, "a");
  block(2, true, "b");
  block(1, false, "c");
  block(3, true, "d");
  all.abort({.xid = 3, .subxid = 3});
  all.abort({.xid = 99, .subxid = 99});
  EXPECT_EQ(all.under_way(), 2u);
  EXPECT_EQ(read(*all.take_out(1).value()), (std::vector<std::string>{"Ma@5", "Mc@5"}));
  EXPECT_EQ(all.take_out(1).error().code, errc::protocol);
  EXPECT_EQ(all.take_out(3).error().code, errc::protocol);
  block(2, true, "again, from the start");
  EXPECT_EQ(read(*all.take_out(2).value()), (std::vector<std::string>{"Magain, from the start@5"}));
  ASSERT_TRUE(all.start({.xid = 5, .first = true}));
  EXPECT_EQ(all.start({.xid = 6, .first = true}).error().code, errc::protocol);
  all.clear();
  EXPECT_EQ(all.under_way(), 0u);
  EXPECT_FALSE(all.in_block());
}

}  // namespace
}  // namespace postbus::changes
