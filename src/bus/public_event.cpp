#include "bus/public_event.hpp"

#include "base/json_text.hpp"

namespace postbus {

std::string_view to_text(event_kind kind) noexcept {
  return kind == event_kind::unknown ? "unknown" : bus::to_text(static_cast<bus::kind>(kind));
}

std::string to_json(const event& e) {
  std::string out = R"({"id":)";
  if (e.position.empty())
    out += "null";  // of a snapshot, before `live`
  else
    append_json_string(out, e.position);
  out += R"(,"channel":)";
  append_json_string(out, e.channel);
  out += R"(,"kind":)";
  append_json_string(out, to_text(e.kind));
  out += R"(,"at":)";
  append_json_string(out, e.at);
  out += R"(,"payload":)";
  if (e.is_json)
    out += e.payload;
  else
    append_json_string(out, e.payload);
  out += '}';
  return out;
}

}  // namespace postbus

namespace postbus::bus {

static_assert(static_cast<int>(event_kind::reset) == static_cast<int>(kind::reset) &&
                  static_cast<int>(event_kind::message) == static_cast<int>(kind::message),
              "the public kinds are the bus's, in its order");

event_kind to_public(kind k) { return static_cast<event_kind>(k); }

postbus::event to_public(const event& e) {
  postbus::event out;
  out.position = to_text(e.at);
  out.channel = public_name(e.channel);
  append_rfc3339(out.at, e.time);
  out.payload = e.payload;
  out.kind = to_public(e.kind);
  out.is_json = e.form == payload_form::json;
  return out;
}

}  // namespace postbus::bus
