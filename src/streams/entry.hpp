#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "bus/position.hpp"

namespace postbus::streams {

/** Where one message of a stream stands: what `entries` of postbus.stream_positions holds of it, 32 bytes big-endian. */
struct entry {
  std::uint64_t lsn{};    ///< end of its commit
  std::uint32_t index{};  ///< in its transaction
  std::uint32_t bytes{};  ///< of its payload
  unix_micros time{};     ///< of its commit
  std::uint64_t id{};     ///< postbus.messages.id
};
inline constexpr std::size_t entry_bytes = 32;

/** Appends `e` as the text form of a bytea shows it: 64 hex digits. */
void append_hex(std::string& out, const entry& e);
/** The entry at `offset` of `hex`, a bytea's text without its \x; it holds 64 digits from there on. */
entry parse_hex(std::string_view hex, std::size_t offset);

}  // namespace postbus::streams
