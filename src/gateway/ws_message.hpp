#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.hpp"
#include "bus/event.hpp"
#include "bus/hub.hpp"
#include "feeds/view.hpp"

namespace postbus::gateway {

/**
 * {"id":7,"op":"subscribe","channel":"orders","after":POS?}. `after`: a position, "beginning" or "now" (as when absent). Of a
 * table's channel also "where":FILTER?, "columns":[NAME,…]?, "maybe":true?, "snapshot":true?.
 * Instead of `after`, of a stream, "consumer":NAME: where that consumer is.
 */
struct ws_subscribe {
  std::string channel;
  bus::start after;
  bool snapshot{};
  std::unique_ptr<feeds::view_request> filter{};  ///< null: all of the channel
  std::string consumer{};
};
/** {"id":10,"op":"ack","channel":"orders","consumer":NAME,"position":POS}: the consumer is done with all up to there. */
struct ws_ack {
  std::string channel;
  std::string consumer;
  std::string position;
};
/** {"id":8,"op":"unsubscribe","sub":7}: `sub` is the id of the subscribe. */
struct ws_unsubscribe {
  std::int64_t sub{};
};
/** {"id":9,"op":"post","channel":"orders","payload":…}: a JSON string posts its text, any other value is posted as JSON, its bytes unchanged. */
struct ws_post {
  std::string channel;
  std::string payload;
  bus::payload_form form{};
};

struct ws_request {
  std::int64_t id{};  ///< 0 to 2^53-1, chosen by the client
  std::variant<ws_subscribe, ws_unsubscribe, ws_post, ws_ack> op;
};

/** A message that cannot be carried out. With an id: reply with `append_ws_error` and go on. Without: nothing to reply to, close with 4400. */
struct ws_refusal {
  std::optional<std::int64_t> id;
  error why;
};

/**
 * Reads one text frame of /v1/ws (its size already bounded by the frame parser). JSON is checked without building a tree, at
 * most 64 levels deep. Unknown members are ignored, doubled ones refused. Channel names are checked (a post's also for
 * reserved prefixes).
 */
std::variant<ws_request, ws_refusal> parse_ws_message(std::string_view text);

/** {"id":7,"ok":{"position":POS}}: a subscription is fixed at POS; for a post POS is at least that of the message. */
void append_ws_ok(std::string& out, std::int64_t id, const bus::position& at);
/** {"id":8,"ok":{}}: done; of a subscription that begins with rows, that they come. */
void append_ws_ok(std::string& out, std::int64_t id);
/** {"id":9,"error":{problem}} */
void append_ws_error(std::string& out, std::int64_t id, const error& why);
/** The event's JSON with "sub":ID as its first member: `event_json` is what bus::append_event_json made. */
void append_ws_event(std::string& out, std::int64_t sub, std::string_view event_json);
/** How many bytes append_ws_event will append. */
std::size_t ws_event_bytes(std::int64_t sub, std::string_view event_json);

}  // namespace postbus::gateway
