// Why the catalog may be believed behind the place: where its snapshot no longer shows a partition, or an identity, rows were
// written under it by transactions that held the partition's lock, and ALTER, DETACH and DROP waited until those had committed.
// So such rows stand in front of them in the WAL, and they in front of the place, which is read with the snapshot or later. Who
// alters the partition again makes the stream tell of it again, before the next row of it.
#include "feeds/partition_identities.hpp"

#include <algorithm>

namespace postbus::feeds {

bool carried_columns::contains(std::string_view column) const { return all || std::ranges::find(names, column) != names.end(); }

void partition_identities::tell(carried_columns of, std::uint64_t xid) {
  const auto partition = of.partition;
  told_[partition] = {.columns = std::move(of), .xid = xid, .newer = true};
}

void partition_identities::found(std::vector<carried_columns> all, std::uint64_t before_xid) {
  for (auto& [partition, t] : told_) t.newer = t.xid >= before_xid;
  found_ = std::move(all);
}

void partition_identities::arrived() {
  if (!found_) return;
  for (auto at = told_.begin(); at != told_.end();) {
    const auto now = std::ranges::find(*found_, at->first, &carried_columns::partition);
    if (at->second.newer) {
      ++at;
    } else if (now == found_->end()) {
      at = told_.erase(at);
    } else {
      at++->second.columns = *now;
    }
  }
  found_.reset();
}

void partition_identities::clear() {
  told_.clear();
  found_.reset();
}

bool partition_identities::carry(std::string_view column) const {
  return std::ranges::all_of(told_, [&](const auto& each) { return each.second.columns.contains(column); });
}

}  // namespace postbus::feeds
