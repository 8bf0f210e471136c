#include "changes/slot_guard.hpp"

#include <fmt/format.h>

namespace postbus::changes {

slot_guard::verdict slot_guard::judge(const slot_health& health, const limits& bounds) {
  const auto keep = health.keep_bytes != 0 ? health.keep_bytes : bounds.unbounded_keep;
  const auto wal =
      fmt::format("the replication slot keeps {} MB of WAL, of {} MB that it may keep", health.retained_bytes >> 20, keep >> 20);
  const auto rows = fmt::format("the replication slot keeps catalog rows of {} transactions ago from vacuum", health.xmin_age);
  if (health.retained_bytes > keep / 10 * 9) return {action::give_up, wal};
  if (health.xmin_age > bounds.xmin_most) return {action::give_up, rows};
  if (health.retained_bytes > keep / 2) return {action::shorten_window, wal};
  if (health.xmin_age > bounds.xmin_warn) return {action::shorten_window, rows};
  return {};
}

}  // namespace postbus::changes
