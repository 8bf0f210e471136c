#include "bus/channel.hpp"

#include "base/json_text.hpp"

namespace postbus::bus {

bool is_reserved(std::string_view channel) {
  return channel.starts_with("table:") || channel.starts_with("task:") || channel.starts_with("cache:") || channel.starts_with("postbus:");
}

result<> check_channel(std::string_view channel) {
  if (channel.empty() || channel.size() > max_channel_bytes)
    return error{errc::invalid_channel, "a channel name has 1 to 255 bytes, this one has " + std::to_string(channel.size())};
  if (!is_utf8(channel)) return error{errc::invalid_channel, "a channel name must be UTF-8"};
  for (std::size_t i = 0; i < channel.size(); ++i) {
    const auto byte = static_cast<unsigned char>(channel[i]);
    const bool c1 = byte == 0xc2 && static_cast<unsigned char>(channel[i + 1]) < 0xa0;
    if (byte < 0x20 || byte == 0x7f || c1) return error{errc::invalid_channel, "a channel name must not hold control characters"};
  }
  return {};
}

result<> check_post_channel(std::string_view channel) {
  if (auto checked = check_channel(channel); !checked) return checked;
  if (is_reserved(channel))
    return error{errc::invalid_channel, "names that begin with table:, task:, cache: or postbus: are Postbus's own; post to another name"};
  return {};
}

bool is_plain(std::string_view channel) { return channel.size() <= max_plain_channel_bytes && !is_reserved(channel); }

}  // namespace postbus::bus
