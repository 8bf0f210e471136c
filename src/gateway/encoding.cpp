#include "gateway/encoding.hpp"

#include "base/websocket_frame.hpp"

namespace postbus::gateway {
namespace {

bool is_notice(const bus::event& e) { return e.kind == bus::kind::gap || e.kind == bus::kind::reset || e.kind == bus::kind::live; }

std::string& scratch() {
  thread_local std::string buffer;
  buffer.clear();
  return buffer;
}

void ws_event(std::string& out, const bus::event& e) {
  auto& json = scratch();
  bus::append_event_json(json, e);
  websocket::append_frame(out, websocket::opcode::text, json);
}

void ws_payload(std::string& out, const bus::event& e) {
  if (is_notice(e)) return ws_event(out, e);
  websocket::append_frame(out, websocket::opcode::text, e.payload);
}

// HTML Standard, "Server-sent events": a line ends with CR LF, LF or CR; each line of the data gets its own field.
void append_data(std::string& out, std::string_view data) {
  for (;;) {
    const auto end = data.find_first_of("\r\n");
    out += "data: ";
    out += data.substr(0, end);
    out += '\n';
    if (end == std::string_view::npos) return;
    data.remove_prefix(end + (data.substr(end).starts_with("\r\n") ? 2 : 1));
  }
}

void sse_head(std::string& out, const bus::event& e) {
  if (e.at != bus::position{}) {
    out += "id: ";
    bus::append_text(out, e.at);
    out += '\n';
  } else if (e.kind == bus::kind::reset) {
    out += "id\n";  // an EventSource that comes back does so without a position
  }
  if (e.kind != bus::kind::message) {
    out += "event: ";
    out += bus::to_text(e.kind);
    out += '\n';
  }
}

void sse_payload(std::string& out, const bus::event& e) {
  sse_head(out, e);
  append_data(out, e.payload);
  out += '\n';
}

void sse_event(std::string& out, const bus::event& e) {
  sse_head(out, e);
  auto& json = scratch();
  bus::append_event_json(json, e);
  append_data(out, json);
  out += '\n';
}

void lines(std::string& out, const bus::event& e) {
  if (is_notice(e)) return;  // the session ends the response instead: a line cannot tell
  out += e.payload;
  out += '\n';
}

constexpr std::array<bus::encoder, bus::max_wire_forms> table{ws_event, ws_payload, sse_payload, sse_event, lines, bus::append_event_json};
static_assert(static_cast<std::size_t>(form::count_) <= bus::max_wire_forms);

}  // namespace

std::array<bus::encoder, bus::max_wire_forms> encoders() { return table; }

void encode(std::string& out, form f, const bus::event& e) { table[static_cast<std::size_t>(f)](out, e); }

std::string_view turn_cache::get(form f, const bus::event_ref& e) {
  auto& cached = by_form_[static_cast<std::size_t>(f)][e.item];
  if (!cached.bytes) {
    used_ = true;
    cached.owner = e.owner;
    cached.bytes = std::make_unique<std::string>();
    encode(*cached.bytes, f, *e);
  }
  return *cached.bytes;
}

void turn_cache::clear() {
  if (!used_) return;
  for (auto& map : by_form_) map.clear();
  used_ = false;
}

}  // namespace postbus::gateway
