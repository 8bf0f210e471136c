#pragma once
#include <optional>
#include <string_view>

#include "bus/event.hpp"

namespace postbus::app {

/** A message that postbus.post sent by NOTIFY: see sql/migrations/0002_post.sql for the layout. Views into the payload. */
struct notify_message {
  std::string_view channel;
  std::string_view payload;
  bus::payload_form form{};
};

/** nullopt for anything that postbus.post would not send: anyone may NOTIFY on its channel. */
std::optional<notify_message> parse_notify_message(std::string_view payload);

}  // namespace postbus::app
