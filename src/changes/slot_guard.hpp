#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace postbus::changes {

/** What a slot costs its server; see sql/statements/changes/slot_health.sql. */
struct slot_health {
  std::uint64_t retained_bytes{};  ///< WAL kept for it
  std::uint64_t keep_bytes{};      ///< max_slot_wal_keep_size; 0: without bound
  std::uint64_t xmin_age{};        ///< transactions since the oldest catalog rows that it keeps from vacuum
  std::uint64_t at_lsn{};          ///< where the WAL ended when this was asked
  std::uint32_t epoch{};           ///< of positions, as the database says
  std::string feeds_fault{};       ///< why feeds are not what they should be; empty: they are
  bool ended{};                    ///< the transaction that was asked about has committed or was rolled back
  std::optional<std::uint64_t> free_from{};  ///< the permanent slot was held by another session, and can be read from here on
};

/**
 * What to do about a permanent slot that costs its server too much, so that the disk does not fill and vacuum goes on.
 * I/O-free. First the resume window is given up, which costs listeners that come back later; when that does not help, the
 * slot is: a new one is made, with a reset, before the server invalidates this one at a moment of its own.
 */
struct slot_guard {
  struct limits {
    std::uint64_t unbounded_keep{std::uint64_t{4} << 30};  ///< taken for max_slot_wal_keep_size where that is not set
    std::uint64_t xmin_warn{50'000'000};
    std::uint64_t xmin_most{500'000'000};
  };
  enum class action : std::uint8_t { none, shorten_window, give_up };
  struct verdict {
    action what{action::none};
    std::string why;  ///< for the log
  };
  static verdict judge(const slot_health& health, const limits& bounds);
};

}  // namespace postbus::changes
