#pragma once
#include <string_view>

#include "base/result.hpp"

namespace postbus::feeds {

/** What a feed's channel begins with; the table's schema, a dot and its name follow. */
inline constexpr std::string_view feed_prefix = "table:";

/** errc::not_watched, with the command that watches `table`, as its user names it. */
error not_watched(std::string_view table);
/** True for the SQLSTATEs by which the server refuses a text as a table's name: it is empty, has too many parts, names another database. */
bool is_no_table_name(std::string_view sqlstate);
/** errc::not_watched: `table` could not be the name of one. */
error no_table_name(std::string_view table);
/** errc::not_watched, with the channel that `table` is watched under. */
error watched_as(std::string_view table, std::string_view channel);

}  // namespace postbus::feeds
