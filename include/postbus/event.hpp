#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "postbus/version.hpp"

namespace postbus {

/** What an event says. The words on the wire are the same, without the underscore (docs/protocol.md). */
enum class event_kind : std::uint8_t {
  message,   ///< somebody posted
  insert,    ///< a row of a watched table …
  update,
  delete_,
  truncate,
  row,       ///< one row of a snapshot
  live,      ///< the snapshot is complete, changes follow
  enter,
  leave,
  schema,
  task,
  value,
  gap,       ///< events may be missing; delivery goes on. The payload is {"from","to","reason"}
  reset,     ///< positions start anew; drop what was derived from earlier events. The payload is {"position","reason"}
  unknown,   ///< a gateway newer than this library sent it
};
/** The word on the wire: "message", "delete", …. Static memory. */
std::string_view to_text(event_kind kind) noexcept;

/** One event as a listener receives it. Owns its bytes. */
struct event {
  std::string position;  ///< opaque; listening again `after` it misses nothing and repeats nothing. Also the key to recognise a repeat by
  std::string channel;
  std::string at;  ///< commit time, RFC 3339 in UTC
  std::string payload;  ///< the text as posted, or the JSON text when `is_json`
  event_kind kind{event_kind::message};
  bool is_json{};  ///< the payload was posted as JSON: `payload` is one JSON value, its bytes as the gateway sent them

  /** True for gap and reset: not something posted, but word that something may be missing. */
  bool is_notice() const noexcept { return kind == event_kind::gap || kind == event_kind::reset; }
};

/** The event as one line of JSON, as the gateway writes it: {"id":…,"channel":…,"kind":…,"at":…,"payload":…}. */
std::string to_json(const event& e);

}  // namespace postbus
