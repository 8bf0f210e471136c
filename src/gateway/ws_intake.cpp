#include "gateway/ws_intake.hpp"

namespace postbus::gateway {

websocket::item ws_intake::next(std::span<char>& input) {
  const auto item = parser_.next(input);
  using what = websocket::item::what;
  if (item.is == what::text || item.is == what::binary) since_ = {};
  if (item.is != what::need_more) return item;
  if (!parser_.pending())
    since_ = {};
  else if (since_ == steady::time_point{})
    since_ = steady::now();
  if (held_.hold(parser_.held())) return item;
  parser_ = websocket::parser{websocket::role::server, 0};
  held_.hold(0);
  return {what::broken, websocket::close_code::try_again, "too many large messages at once; come back in a moment"};
}

std::string_view ws_intake::overdue() const {
  if (since_ == steady::time_point{} || steady::now() - since_ < home_.limits().body_deadline) return {};
  return "the message did not arrive in time";
}

}  // namespace postbus::gateway
