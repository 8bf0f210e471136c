#include "feeds/feed_name.hpp"

#include <fmt/format.h>

namespace postbus::feeds {

error not_watched(std::string_view table) {
  if (table.starts_with("postbus."))
    return {errc::not_watched,
            fmt::format("the table {} is Postbus's own and is not watched; a stream's messages come on its channel", table)};
  return {errc::not_watched, fmt::format("the table {} is not watched; watch it with: postbus watch {}", table, table)};
}

bool is_no_table_name(std::string_view sqlstate) { return sqlstate == "42602" || sqlstate == "42601" || sqlstate == "0A000"; }

error no_table_name(std::string_view table) {
  return {errc::not_watched, fmt::format("'{}' cannot be the name of a table: it is named schema.table, as in public.orders", table)};
}

error watched_as(std::string_view table, std::string_view channel) {
  return {errc::not_watched, fmt::format("no feed has the channel {}{}; the table's is {}", feed_prefix, table, channel)};
}

}  // namespace postbus::feeds
