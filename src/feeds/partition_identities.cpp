// Why the catalog may be believed behind the place, which was read with the catalog's snapshot or later: a change of a partition that the
// snapshot does not show under its old identity is of a transaction that wrote the partition first and held its lock, so that
// ALTER, DETACH and DROP waited until that was committed. Its commit stands before theirs, and theirs before the place. Who alters
// the partition again makes the stream tell of it again, before the next row of it.
#include "feeds/partition_identities.hpp"

#include <algorithm>

namespace postbus::feeds {

bool carried_columns::contains(std::string_view column) const { return all || std::ranges::find(names, column) != names.end(); }

void partition_identities::tell(carried_columns of) {
  const auto partition = of.partition;
  told_[partition] = {.columns = std::move(of), .since_found = true};
}

void partition_identities::found(std::vector<carried_columns> all) {
  for (auto& [partition, t] : told_) t.since_found = false;
  found_ = std::move(all);
}

void partition_identities::arrived() {
  if (!found_) return;
  for (auto at = told_.begin(); at != told_.end();) {
    const auto now = std::ranges::find(*found_, at->first, &carried_columns::partition);
    if (at->second.since_found) {
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
