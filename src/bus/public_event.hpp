#pragma once
#include "bus/event.hpp"
#include "postbus/event.hpp"

namespace postbus::bus {

event_kind to_public(kind k);
/** A copy for a user of the library: it owns its bytes and needs no batch. */
postbus::event to_public(const event& e);

}  // namespace postbus::bus
