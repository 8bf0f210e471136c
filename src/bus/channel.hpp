#pragma once
#include <string_view>

#include "base/result.hpp"

namespace postbus::bus {

inline constexpr std::size_t max_channel_bytes = 255;
/** LISTEN and NOTIFY reach only names up to this many bytes (NAMEDATALEN - 1). */
inline constexpr std::size_t max_plain_channel_bytes = 63;

/** True for names that begin with table:, task:, cache: or postbus:, which are Postbus's own. */
bool is_reserved(std::string_view channel);

/** Any channel one may listen on: UTF-8, 1 to 255 bytes, no control characters (C0, DEL, C1). */
result<> check_channel(std::string_view channel);

/** A channel one may post to: as above and not reserved. */
result<> check_post_channel(std::string_view channel);

/** True when plain NOTIFY can carry the name: at most 63 bytes and not reserved. */
bool is_plain(std::string_view channel);

}  // namespace postbus::bus
