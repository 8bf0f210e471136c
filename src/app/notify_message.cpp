#include "app/notify_message.hpp"

#include <charconv>

#include "base/json_text.hpp"
#include "bus/channel.hpp"

namespace postbus::app {

std::optional<notify_message> parse_notify_message(std::string_view payload) {
  constexpr std::size_t kind = 1, number = 8, length = 2, head = kind + number + length;
  if (payload.size() < head || (payload[0] != 't' && payload[0] != 'j')) return std::nullopt;
  std::size_t channel_bytes = 0;
  const auto* const digits = payload.data() + kind + number;
  const auto read = std::from_chars(digits, digits + length, channel_bytes, 16);
  if (read.ec != std::errc{} || read.ptr != digits + length || payload.size() < head + channel_bytes) return std::nullopt;
  notify_message m;
  m.form = payload[0] == 'j' ? bus::payload_form::json : bus::payload_form::text;
  m.channel = payload.substr(head, channel_bytes);
  m.payload = payload.substr(head + channel_bytes);
  if (!bus::check_post_channel(m.channel) || (m.form == bus::payload_form::json && !is_json(m.payload))) return std::nullopt;
  return m;
}

}  // namespace postbus::app
