#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "feeds/value_type.hpp"

namespace postbus::feeds {

/** The columns of a partition whose old values the WAL carries. */
struct carried_columns {
  oid partition{};
  bool all{};                      ///< REPLICA IDENTITY FULL
  std::vector<std::string> names{};  ///< else those of its identity
  bool contains(std::string_view column) const;
};

/**
 * What all partitions of a table carry of a row's old values, as far as the stream has come. Each has a replica identity of its
 * own, and a row's change does not say of which partition it is: only that the stream told of that partition before, and anew
 * since it was last altered. So what each one that was told of carries is known of every row. I/O-free; one thread.
 */
class partition_identities {
public:
  /** The stream tells of a partition, in transaction `xid`, before the first row of it that needs to know. */
  void tell(carried_columns of, std::uint64_t xid);
  /**
   * The partitions as the catalog shows them when the WAL has come to some place, with the work of all transactions before
   * `before_xid`: that holds for what is committed behind the place, but for those that the stream told of in another
   * transaction (one that waits for its standby is streamed and not visible yet), or tells of meanwhile. Without it one that was dropped, or altered and not written since, would
   * count for ever as what it was.
   */
  void found(std::vector<carried_columns> all, std::uint64_t before_xid);
  /** The stream has come past that place. */
  void arrived();
  /** A new stream begins, and tells of all anew. */
  void clear();

  /** The old value of this column is known of every row, also where it is NULL. */
  bool carry(std::string_view column) const;

private:
  struct told {
    carried_columns columns;
    std::uint64_t xid{};
    bool newer{};  ///< than what the catalog shows
  };
  std::map<oid, told> told_;
  std::optional<std::vector<carried_columns>> found_;
};

}  // namespace postbus::feeds
