#include "feeds/mirror.hpp"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>

#include "base/metrics.hpp"

namespace postbus::feeds {
namespace {

TEST(mirror, what_does_not_fit_its_queue_is_a_gap_that_is_told) {
  boost::asio::io_context loop;
  bus::hub hub;
  const bus::position start{7, 100, bus::position::end_of_commit};
  hub.begin(start);
  mirror m{loop.get_executor(), {.conninfo = "", .queue_bytes = 1000}, hub};
  const auto lost = metrics::value(metrics::counter::mirror_lost);
  for (std::uint64_t i = 0; i < 9; ++i) m.send("events", std::string(100, 'x'), {7, 200 + i, 0});
  EXPECT_EQ(metrics::value(metrics::counter::mirror_lost), lost);
  hub.advance({7, 300, 0});
  m.send("events", std::string(100, 'x'), {7, 300, 0});
  EXPECT_EQ(metrics::value(metrics::counter::mirror_lost), lost + 9);
  const auto told = hub.history("events", start).events;
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0]->kind, bus::kind::gap);
  EXPECT_NE(told[0]->payload.find("\"mirror\""), std::string_view::npos);
}

}  // namespace
}  // namespace postbus::feeds
