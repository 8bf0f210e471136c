#include "feeds/partition_identities.hpp"

#include <gtest/gtest.h>

namespace postbus::feeds {
namespace {

const carried_columns full_one{.partition = 1, .all = true}, keyed_one{.partition = 1, .names = {"id"}};
const carried_columns keyed_two{.partition = 2, .names = {"id"}}, full_two{.partition = 2, .all = true};

TEST(partition_identities, carry_what_each_that_was_told_of_carries) {
  partition_identities all;
  EXPECT_TRUE(all.carry("owner")) << "no row can have come yet";
  all.tell(full_one, 100);
  EXPECT_TRUE(all.carry("owner"));
  all.tell(keyed_two, 100);
  EXPECT_FALSE(all.carry("owner"));
  EXPECT_TRUE(all.carry("id"));
  all.tell({.partition = 3, .names = {"mail"}}, 100);
  EXPECT_FALSE(all.carry("id"));
  all.clear();
  EXPECT_TRUE(all.carry("owner"));
}

TEST(partition_identities, are_mended_by_the_catalog_when_the_stream_has_come_so_far) {
  for (const auto& now : {std::vector{full_one, full_two}, std::vector{full_one}}) {  // altered, and dropped
    partition_identities all;
    all.tell(full_one, 100);
    all.tell(keyed_two, 100);
    all.found(now, 101);
    EXPECT_FALSE(all.carry("owner")) << "rows from before may still come";
    all.arrived();
    EXPECT_TRUE(all.carry("owner"));
  }
}

TEST(partition_identities, are_as_the_stream_told_last_whatever_the_catalog_shows) {
  partition_identities all;
  all.tell(full_one, 100);
  all.found({full_one}, 101);
  all.tell(keyed_one, 100);
  all.tell(keyed_two, 100);
  all.arrived();
  EXPECT_FALSE(all.carry("owner"));
  all.found({full_one}, 101);
  all.arrived();
  EXPECT_TRUE(all.carry("owner"));
  all.tell(keyed_one, 100);
  all.arrived();
  EXPECT_FALSE(all.carry("owner"));
}

TEST(partition_identities, are_not_mended_by_a_catalog_that_may_not_show_yet_what_the_stream_told) {
  partition_identities all;
  all.tell(full_one, 90);
  all.tell(keyed_two, 100);  // waits for its standby
  all.found({full_one, full_two}, 100);
  all.arrived();
  EXPECT_FALSE(all.carry("owner"));
  all.found({full_one, full_two}, 101);
  all.arrived();
  EXPECT_TRUE(all.carry("owner"));
}

}  // namespace
}  // namespace postbus::feeds
