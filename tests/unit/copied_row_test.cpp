#include "feeds/copied_row.hpp"

#include <gtest/gtest.h>

#include "feeds/spool.hpp"

namespace postbus::feeds {
namespace {

TEST(copied_rows, are_written_as_the_feed_writes_them) {
  copied_rows rows{"public", "t", {{"id", 23}, {"text\"", 25}, {"ok", 16}, {"at", 1184}}, {}};
  std::string out;
  ASSERT_TRUE(rows.append(out, "7\ta\\tb\\n\\\\N\\b\\f\\v\\r\\\\\tt\t2026-11-22 02:11:43.5+00\n"));
  EXPECT_EQ(
      out,
      R"({"schema":"public","table":"t","action":"ROW","data":{"id":7,"text\"":"a\tb\n\\N\b\f\u000b\r\\","ok":true,"at":"2026-11-22T02:11:43.5+00:00"}})");
  out.clear();
  ASSERT_TRUE(rows.append(out, "\\N\t\\N\t\\N\t\\N"));
  EXPECT_EQ(out, R"({"schema":"public","table":"t","action":"ROW","data":{"id":null,"text\"":null,"ok":null,"at":null}})");
  out.clear();
  ASSERT_TRUE(rows.append(out, "1\t\tf\t\n"));
  EXPECT_NE(out.find(R"("text\"":"","ok":false)"), std::string::npos);
  for (const auto* line : {"", "1\ta\tt", "1\ta\tt\tx\ty", "1"}) EXPECT_FALSE(rows.append(out, line)) << line;
}

TEST(spool, gives_rows_from_memory_and_from_its_file) {
  spool_space space;
  space.memory = 100'000;
  auto rows = std::make_shared<spool>(space, "table:public.t");
  EXPECT_TRUE(rows->abandoned());
  {
    spool_reader early{rows};
    int rung = 0;
    const std::function<void()> wake = [&] { ++rung; };
    EXPECT_EQ(early.next(wake).value(), std::nullopt);
    for (int i = 0; i < 5000; ++i) {
      rows->begin_row() += std::to_string(i) + std::string(static_cast<std::size_t>(i % 100), 'x');
      ASSERT_TRUE(rows->end_row());
    }
    ASSERT_TRUE(rows->end_rows());
    EXPECT_EQ(rung, 1);
    EXPECT_GT(space.held, 200'000u);
    spool_reader late{rows};
    EXPECT_EQ(rows->readers(), 2);
    for (auto* r : {&early, &late}) {
      for (int i = 0; i < 5000; ++i)
        ASSERT_EQ(r->next(wake).value().value(), std::to_string(i) + std::string(static_cast<std::size_t>(i % 100), 'x'));
      EXPECT_EQ(r->next(wake).value(), std::nullopt);
      EXPECT_FALSE(r->finished());
    }
    rows->joined({.seen = {}, .from = {1, 2, 3}, .through = {1, 2, 4}});
    EXPECT_EQ(rung, 3);
    EXPECT_EQ(late.next(wake).value(), std::nullopt);
    EXPECT_TRUE(late.finished());
    EXPECT_EQ(late.rows(), 5000u);
    EXPECT_EQ(late.join().through.index, 4u);
  }
  rows.reset();
  EXPECT_EQ(space.held, 0u);
}

TEST(spool, refuses_more_than_there_is_space_for) {
  spool_space space;
  space.most = 100'000;
  auto rows = std::make_shared<spool>(space, "table:public.t");
  spool_reader reader{rows};
  result<> kept;
  for (int i = 0; kept && i < 1000; ++i) {
    rows->begin_row() += std::string(1000, 'x');
    kept = rows->end_row();
  }
  ASSERT_FALSE(kept);
  EXPECT_EQ(kept.error().code, errc::too_large);
  EXPECT_NE(kept.error().text.find("100000 bytes"), std::string::npos);
  rows->fail(kept.error());
  EXPECT_EQ(reader.next([] {}).error().code, errc::too_large);
}

}  // namespace
}  // namespace postbus::feeds
