#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.hpp"
#include "postbus/event.hpp"

namespace postbus::remote {

/** An event of one subscription. */
struct event_message {
  std::int64_t sub{};
  event item;
};
/** The answer to a subscribe. */
struct confirmed_message {
  std::int64_t id{};
  std::string position;
};
/** A refusal of a subscribe, or of the whole connection (`id` 0). */
struct refused_message {
  std::int64_t id{};
  error why;
};
using server_message = std::variant<event_message, confirmed_message, refused_message>;

/**
 * Reads one text frame of /v1/ws. A JSON payload's bytes are kept as they came: parsing it would round numbers that are
 * wider than a double. errc::protocol when it is no such message.
 */
result<server_message> parse_server_message(std::string_view frame);

/** Calls `visit(name, value)` for each member of one JSON object; the value is its raw text. False when the text is no object. */
bool for_each_member(std::string_view object, const std::function<void(std::string_view name, std::string_view value)>& visit);

/** The text of a raw JSON string with its quotes; errc::protocol for anything else. */
result<std::string> parse_json_string(std::string_view raw);

}  // namespace postbus::remote
