#include "client/event_text.hpp"

#include <boost/json/parse.hpp>

#include <charconv>
#include <optional>

#include "bus/public_event.hpp"
#include "client/problem.hpp"

namespace postbus::remote {
namespace {

constexpr bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/** Walks JSON text without building anything. It finds where values end; it does not judge what stands inside them. */
class scanner {
public:
  explicit scanner(std::string_view text) : rest_{text} {}

  bool take(char c) {
    skip_space();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::optional<std::string_view> string() {
    skip_space();
    if (rest_.empty() || rest_.front() != '"') return std::nullopt;
    for (std::size_t i = 1; i < rest_.size(); ++i) {
      if (rest_[i] == '\\')
        ++i;
      else if (rest_[i] == '"')
        return cut(i + 1);
    }
    return std::nullopt;
  }
  std::optional<std::string_view> value() {
    skip_space();
    if (rest_.empty()) return std::nullopt;
    if (rest_.front() == '"') return string();
    if (rest_.front() != '{' && rest_.front() != '[') {
      const auto end = rest_.find_first_of(",]} \t\r\n");
      return end == 0 || end == std::string_view::npos ? std::nullopt : std::optional{cut(end)};
    }
    std::size_t depth = 0;
    for (std::size_t i = 0; i < rest_.size(); ++i) {
      switch (rest_[i]) {
        case '"':
          for (++i; i < rest_.size() && rest_[i] != '"'; ++i)
            if (rest_[i] == '\\') ++i;
          break;
        case '{':
        case '[': ++depth; break;
        case '}':
        case ']':
          if (--depth == 0) return cut(i + 1);
          break;
        default: break;
      }
    }
    return std::nullopt;
  }
  bool at_end() {
    skip_space();
    return rest_.empty();
  }

private:
  void skip_space() {
    while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
  }
  std::string_view cut(std::size_t size) {
    const auto taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::string_view rest_;
};

error unreadable() { return error{errc::protocol, "the gateway sent a message that this program cannot read"}; }

bool parse_id(std::string_view raw, std::int64_t& id) {
  const auto [end, ec] = std::from_chars(raw.data(), raw.data() + raw.size(), id);
  return ec == std::errc{} && end == raw.data() + raw.size();
}

/** The error a refusal's problem document stands for. */
error parse_problem(std::string_view raw) {
  boost::system::error_code ec;
  const auto problem = boost::json::parse(boost::core::string_view{raw.data(), raw.size()}, ec);
  if (ec || !problem.is_object()) return unreadable();
  return to_error(problem.get_object(), 500);
}

}  // namespace

bool for_each_member(std::string_view object, const std::function<void(std::string_view, std::string_view)>& visit) {
  scanner scan{object};
  if (!scan.take('{')) return false;
  if (scan.take('}')) return scan.at_end();
  do {
    const auto name = scan.string();
    if (!name || !scan.take(':')) return false;
    const auto value = scan.value();
    if (!value) return false;
    visit(name->substr(1, name->size() - 2), *value);
  } while (scan.take(','));
  return scan.take('}') && scan.at_end();
}

result<std::string> parse_json_string(std::string_view raw) {
  if (raw.size() < 2 || raw.front() != '"' || raw.back() != '"') return unreadable();
  const auto inside = raw.substr(1, raw.size() - 2);
  if (inside.find('\\') == std::string_view::npos) return std::string{inside};
  boost::system::error_code ec;
  const auto parsed = boost::json::parse(boost::core::string_view{raw.data(), raw.size()}, ec);
  if (ec || !parsed.is_string()) return unreadable();
  return std::string{parsed.get_string()};
}

result<server_message> parse_server_message(std::string_view frame) {
  std::string_view id, sub, ok, refused, channel, kind, at, payload;
  const bool is_object = for_each_member(frame, [&](std::string_view name, std::string_view value) {
    if (name == "id") id = value;
    if (name == "sub") sub = value;
    if (name == "ok") ok = value;
    if (name == "error") refused = value;
    if (name == "channel") channel = value;
    if (name == "kind") kind = value;
    if (name == "at") at = value;
    if (name == "payload") payload = value;
  });
  if (!is_object) return unreadable();

  if (!sub.empty()) {
    event_message out;
    if (!parse_id(sub, out.sub)) return unreadable();
    const auto word = parse_json_string(kind);
    auto position = id == "null" ? result<std::string>{std::string{}} : parse_json_string(id);
    auto name = parse_json_string(channel);
    auto time = parse_json_string(at);
    if (!word || !position || !name || !time || payload.empty()) return unreadable();
    const auto known = bus::parse_kind(*word);
    out.item.kind = known ? bus::to_public(*known) : event_kind::unknown;
    out.item.position = std::move(*position);
    out.item.channel = std::move(*name);
    out.item.at = std::move(*time);
    // A payload that was posted as text is a JSON string; a JSON document that is itself one string reads the same.
    out.item.is_json = payload.front() != '"';
    if (out.item.is_json) {
      out.item.payload = payload;
    } else {
      auto text = parse_json_string(payload);
      if (!text) return text.error();
      out.item.payload = std::move(*text);
    }
    return server_message{std::move(out)};
  }
  if (!refused.empty()) {
    refused_message out;
    if (!id.empty() && !parse_id(id, out.id)) return unreadable();
    out.why = parse_problem(refused);
    return server_message{std::move(out)};
  }
  confirmed_message out;
  if (ok.empty() || !parse_id(id, out.id)) return unreadable();
  bool readable = true;
  if (!for_each_member(ok,
                       [&](std::string_view name, std::string_view value) {
                         if (name != "position") return;
                         auto position = parse_json_string(value);
                         readable = position.has_value();
                         if (readable) out.position = std::move(*position);
                       }) ||
      !readable)
    return unreadable();
  return server_message{std::move(out)};
}

}  // namespace postbus::remote
