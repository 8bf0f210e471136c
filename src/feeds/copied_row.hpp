#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "feeds/value_type.hpp"

namespace postbus::feeds {

/** Writes rows that COPY gives as the payloads of `row` events, their values as those of the feed. One thread. */
class copied_rows {
public:
  struct column {
    std::string name;
    oid type{};
  };
  copied_rows(std::string_view schema, std::string_view table, const std::vector<column>& columns, type_table types);

  /**
   * Appends {"schema":…,"table":…,"action":"ROW","data":{…}} for one line of COPY's text format, with or without its line
   * end. False when the line has other columns than were asked for.
   */
  bool append(std::string& out, std::string_view line);

private:
  struct key {
    std::string text;  ///< the column's name as JSON, with the colon and what goes before it
    const value_type* type;
  };
  std::string_view unescape(std::string_view field);

  type_table types_;
  std::string head_;
  std::vector<key> keys_;
  std::string plain_;
};

}  // namespace postbus::feeds
