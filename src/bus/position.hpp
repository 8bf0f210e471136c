#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::bus {

/**
 * Where an event stands. Text form EPOCH-LSN-INDEX in fixed-width lower-case hex (8-16-8), so that byte order of the
 * text is event order within one epoch. LSN is the end of the commit record, INDEX counts the transaction's events.
 * Clients treat it as opaque.
 */
struct position {
  std::uint32_t epoch{};
  std::uint64_t lsn{};
  std::uint32_t index{};

  /** Events that came by plain NOTIFY get the last LSN and an index from here on; they are not resumable across a restart. */
  static constexpr std::uint32_t first_notify_index = 0x8000'0000;
  /** As `index`: after every WAL event of that LSN. `postbus.position()` and `at_least` carry it. */
  static constexpr std::uint32_t end_of_commit = 0x7fff'ffff;
  static constexpr std::size_t text_size = 8 + 1 + 16 + 1 + 8;

  bool from_notify() const { return index >= first_notify_index; }
  /** Only positions of one epoch can be compared in a meaningful way. */
  auto operator<=>(const position&) const = default;
};

/** Nothing lies between this and `at`. */
position just_before(const position& at);

void append_text(std::string& out, const position& at);
std::string to_text(const position& at);
/** errc::invalid_position with a text that shows the form. `beginning` and `now` are not positions: see `start`. */
result<position> parse_position(std::string_view text);

}  // namespace postbus::bus
