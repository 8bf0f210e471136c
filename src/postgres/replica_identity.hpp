#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace postbus::postgres {

/** What the advice needs of a table's names, as SQL takes them: with its schema where it needs one, and alone. */
struct identity_target {
  std::string table, bare;
};

/**
 * The SQL that makes `columns` (`count` of them, as SQL takes them) the table's replica identity, by an index. Its name tells
 * the table and the count: names of indexes are one schema's, and each identity has more columns than the one it replaces.
 */
std::string identity_by_index(const identity_target& of, std::string_view columns, std::size_t count);

}  // namespace postbus::postgres
