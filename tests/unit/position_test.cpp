#include "bus/position.hpp"

#include <gtest/gtest.h>

namespace postbus::bus {
namespace {

TEST(position, text_is_fixed_width_lower_case_hex_and_round_trips) {
  const position at{0x5f3a9c01, 0xa1b2c3d40, 3};
  EXPECT_EQ(to_text(at), "5f3a9c01-0000000a1b2c3d40-00000003");
  EXPECT_EQ(parse_position(to_text(at)).value(), at);
}

TEST(position, text_order_is_event_order) {
  const position a{1, 0x10, 0xff}, b{1, 0x11, 0}, c{1, 0x11, position::first_notify_index};
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_LT(to_text(a), to_text(b));
  EXPECT_LT(to_text(b), to_text(c));
}

TEST(position, refuses_anything_else) {
  for (const auto* bad :
       {"", "now", "5f3a9c01-0000000a1b2c3d40-0000000", "5F3A9C01-0000000a1b2c3d40-00000003", "5f3a9c01_0000000a1b2c3d40-00000003",
        "5f3a9c01-0000000a1b2c3d4g-00000003", "5f3a9c01-0000000a1b2c3d40-00000003 "})
    EXPECT_EQ(parse_position(bad).error().code, errc::invalid_position) << bad;
}

}  // namespace
}  // namespace postbus::bus
