#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "bus/topic.hpp"

namespace postbus::gateway {

/** Every form an event can take on the wire. */
enum class form : bus::wire_form {
  ws_event,     ///< a text frame of the event's JSON
  ws_payload,   ///< a text frame of the payload alone; gaps, resets and `live` as event JSON, since a payload cannot tell them
  sse_payload,  ///< id (where the event has one), event (left out for `message`), data: the payload, split on line ends
  sse_event,    ///< the same with the event's JSON as data
  lines,        ///< the payload and a line end (/wait?loop=true)
  json,         ///< the event's JSON alone, for /v1/ws and long polls
  count_
};

/** The encoder of each form, for the hub's topics. */
std::array<bus::encoder, bus::max_wire_forms> encoders();

/** Appends `e` in form `f`. */
void encode(std::string& out, form f, const bus::event& e);

/**
 * Encodings that several connections of one loop need in one turn, each made once. Only connections with many channels use
 * it: those with one channel read from its topic's log.
 */
class turn_cache {
public:
  /** Valid until the next call of clear(). */
  std::string_view get(form f, const bus::event_ref& e);
  void clear();

private:
  struct made {
    std::shared_ptr<const bus::batch> owner;  // keeps the key's address from being used again
    std::unique_ptr<std::string> bytes;
  };
  std::array<boost::unordered_flat_map<const bus::event*, made>, static_cast<std::size_t>(form::count_)> by_form_;
  bool used_{};
};

}  // namespace postbus::gateway
