// Any bytes as a message of /v1/ws: what is accepted as a post of JSON is a JSON value that stands in the message, channel
// names keep their rules, and the reply to a refusal is JSON.
#include <boost/json.hpp>

#include <cstdlib>

#include "bus/channel.hpp"
#include "gateway/ws_message.hpp"

namespace gateway = postbus::gateway;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  const auto message = gateway::parse_ws_message(text);
  boost::json::error_code why;
  if (const auto* refusal = std::get_if<gateway::ws_refusal>(&message)) {
    std::string reply;
    gateway::append_ws_error(reply, refusal->id.value_or(0), refusal->why);
    boost::json::parse(reply, why);
    if (why) std::abort();
    return 0;
  }
  const auto& request = std::get<gateway::ws_request>(message);
  boost::json::parse_options deep;
  deep.max_depth = 64;
  boost::json::parse(text, why, {}, deep);
  if (why || request.id < 0) std::abort();
  if (const auto* subscribe = std::get_if<gateway::ws_subscribe>(&request.op);
      subscribe != nullptr && !postbus::bus::check_channel(subscribe->channel))
    std::abort();
  if (const auto* post = std::get_if<gateway::ws_post>(&request.op)) {
    if (!postbus::bus::check_post_channel(post->channel)) std::abort();
    if (post->form == postbus::bus::payload_form::json) {
      if (text.find(post->payload) == std::string_view::npos) std::abort();
      boost::json::parse(post->payload, why, {}, deep);
      if (why) std::abort();
    } else if (post->payload.contains('\0')) {
      std::abort();
    }
  }
  return 0;
}
