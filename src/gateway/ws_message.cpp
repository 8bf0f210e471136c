// One pass of Boost.JSON's event parser over the text checks it and picks the members of the outermost object; nothing
// below them is kept, so a payload of 16 MB of brackets costs no tree. A JSON payload is posted as the very bytes the client
// sent (numbers beyond a double keep their digits): a second, trivial walk finds where they stand.
#include "gateway/ws_message.hpp"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>

#include <iterator>

#include "bus/channel.hpp"
#include "feeds/filter.hpp"
#include "gateway/problem.hpp"

namespace postbus::gateway {
namespace {

namespace json = boost::json;
using json_error = json::error_code;

constexpr std::size_t max_depth = 64;
constexpr std::size_t max_word = 1024;  // of op, channel and after: longer than any that is valid
constexpr std::int64_t max_id = (std::int64_t{1} << 53) - 1;

enum class member : std::uint8_t { none, id, op, channel, after, sub, payload, where, columns, maybe, snapshot, consumer, position };
constexpr std::size_t most_columns = 1600;  // more than a table can have

member member_named(std::string_view key) {
  if (key == "id") return member::id;
  if (key == "op") return member::op;
  if (key == "channel") return member::channel;
  if (key == "after") return member::after;
  if (key == "sub") return member::sub;
  if (key == "payload") return member::payload;
  if (key == "where") return member::where;
  if (key == "columns") return member::columns;
  if (key == "maybe") return member::maybe;
  if (key == "snapshot") return member::snapshot;
  if (key == "consumer") return member::consumer;
  if (key == "position") return member::position;
  return member::none;
}

struct collector {
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);

  std::optional<std::int64_t> id, sub;
  std::optional<std::string> op, channel, after, payload_text, where, consumer, position;
  std::optional<std::vector<std::string>> columns;
  bool maybe{};
  std::size_t payload_member{};  // which member of the object it is, from 1; 0: there is none
  bool is_object{}, doubled{}, wrong_type{}, has_nul{}, snapshot{};

  bool on_document_begin(json_error&) { return true; }
  bool on_document_end(json_error&) { return true; }
  bool on_object_begin(json_error&) {
    if (depth_ == 0)
      is_object = true;
    else
      begin_value(false);
    ++depth_;
    return true;
  }
  bool on_object_end(std::size_t, json_error&) {
    --depth_;
    return true;
  }
  bool on_array_begin(json_error&) {
    if (depth_ == 1 && current_ == member::columns)
      columns.emplace();
    else
      begin_value(false);
    ++depth_;
    return true;
  }
  bool on_array_end(std::size_t, json_error&) {
    --depth_;
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json_error&) {
    if (depth_ == 1) key_ += bounded(part, key_.size());
    note_nul(part);
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json_error&) {
    note_nul(part);
    if (depth_ != 1) return true;
    key_ += bounded(part, key_.size());
    current_ = member_named(key_);
    key_.clear();
    ++members_;
    if (current_ == member::none) return true;
    const auto bit = 1u << static_cast<unsigned>(current_);
    if ((seen_ & bit) != 0) doubled = true;
    seen_ |= bit;
    if (current_ == member::payload) payload_member = members_;
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, json_error&) {
    string_piece(part);
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json_error&) {
    string_piece(part);
    in_string_ = false;
    return true;
  }
  bool on_number_part(json::string_view, json_error&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, json_error&) {
    if (depth_ != 1) return other();
    if (current_ == member::id)
      id = value;
    else if (current_ == member::sub)
      sub = value;
    else
      begin_value(false);
    return true;
  }
  bool on_uint64(std::uint64_t, json::string_view, json_error&) { return other(); }  // beyond int64
  bool on_double(double, json::string_view, json_error&) { return other(); }
  bool on_bool(bool value, json_error&) {
    if (depth_ != 1 || (current_ != member::maybe && current_ != member::snapshot)) return other();
    (current_ == member::maybe ? maybe : snapshot) = value;
    return true;
  }
  bool on_null(json_error&) { return other(); }
  bool on_comment_part(json::string_view, json_error&) { return true; }
  bool on_comment(json::string_view, json_error&) { return true; }

private:
  static std::string_view bounded(json::string_view part, std::size_t held, std::size_t most = max_word) {
    return {part.data(), std::min(part.size(), most + 1 - std::min(held, most + 1))};
  }
  bool in_payload() const { return current_ == member::payload && depth_ >= 1; }
  void note_nul(json::string_view part) {
    if (in_payload() && part.find('\0') != json::string_view::npos) has_nul = true;
  }
  bool other() {
    begin_value(false);
    return true;
  }
  /** A value that is no integer begins in the outermost object: is that what this member holds? */
  void begin_value(bool is_string) {
    if (depth_ == 2 && current_ == member::columns && (!is_string || !columns)) wrong_type = true;
    if (depth_ != 1) return;
    const bool takes_string = current_ == member::op || current_ == member::channel || current_ == member::after ||
                              current_ == member::where || current_ == member::consumer || current_ == member::position;
    const bool right_type = current_ == member::none || current_ == member::payload || (is_string && takes_string);
    if (!right_type) wrong_type = true;
  }
  void string_piece(json::string_view part) {
    note_nul(part);
    if (depth_ == 2 && current_ == member::columns) {
      if (!in_string_) {
        begin_value(true);
        if (!wrong_type && columns->size() <= most_columns) columns->emplace_back();
      }
      if (!wrong_type && columns->size() <= most_columns) columns->back() += bounded(part, columns->back().size());
      in_string_ = true;
    }
    if (depth_ != 1) return;
    if (!in_string_) begin_value(true);
    auto* const into = current_ == member::op         ? &op
                       : current_ == member::channel  ? &channel
                       : current_ == member::after    ? &after
                       : current_ == member::where    ? &where
                       : current_ == member::payload  ? &payload_text
                       : current_ == member::consumer ? &consumer
                       : current_ == member::position ? &position
                                                      : nullptr;
    if (into != nullptr) {
      if (!*into) into->emplace();
      if (current_ == member::payload)
        (*into)->append(part.data(), part.size());
      else
        **into += bounded(part, (*into)->size(), current_ == member::where ? feeds::max_filter_bytes : max_word);
    }
    in_string_ = true;
  }

  std::size_t depth_{}, members_{};
  std::string key_;
  member current_{};
  unsigned seen_{};
  bool in_string_{};
};

std::size_t skip_blanks(std::string_view text, std::size_t i) {
  while (i < text.size() && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r')) ++i;
  return i;
}

std::size_t skip_string(std::string_view text, std::size_t i) {
  for (++i; i < text.size() && text[i] != '"'; ++i)
    if (text[i] == '\\') ++i;
  return i + 1;
}

std::size_t skip_value(std::string_view text, std::size_t i) {
  std::size_t depth = 0;
  while (i < text.size()) {
    const char c = text[i];
    if (c == '"') {
      i = skip_string(text, i);
    } else if (c == '{' || c == '[') {
      ++depth;
      ++i;
    } else if (c == '}' || c == ']') {
      --depth;
      ++i;
    } else if (depth > 0) {
      ++i;
      continue;
    } else {  // a number or a word
      while (i < text.size() && std::string_view{" \t\n\r,}]"}.find(text[i]) == std::string_view::npos) ++i;
    }
    if (depth == 0) break;
  }
  return i;
}

/** The bytes of the value of the outermost object's `number`th member. `text` is known to be valid JSON that has it. */
std::string_view member_bytes(std::string_view text, std::size_t number) {
  std::size_t i = skip_blanks(text, 0) + 1;
  for (std::size_t n = 1;; ++n) {
    i = skip_blanks(text, skip_string(text, skip_blanks(text, i)));  // at the colon
    i = skip_blanks(text, i + 1);
    const auto end = skip_value(text, i);
    if (n == number) return text.substr(i, end - i);
    i = skip_blanks(text, end) + 1;  // past the comma
  }
}

error invalid(std::string text) { return {errc::invalid_argument, std::move(text)}; }

bool is_id(const std::optional<std::int64_t>& id) { return id && *id >= 0 && *id <= max_id; }

result<ws_request> make_request(collector& c, std::string_view text) {
  if (c.doubled) return invalid("a member is given twice");
  if (c.wrong_type)
    return invalid(
        "`op`, `channel`, `after`, `where`, `consumer` and `position` are strings, `id` and `sub` are integers, `columns` is an array of "
        "strings, `maybe` and `snapshot` are true or false");
  if (!c.op) return invalid("`op` is missing");
  if (*c.op == "subscribe") {
    if (!c.channel) return invalid("`channel` is missing");
    if (const auto ok = bus::check_channel(*c.channel); !ok) return ok.error();
    auto after = bus::parse_start(c.after.value_or(""));
    if (!after) return after.error();
    if (c.consumer) {
      if (c.consumer->empty()) return invalid("`consumer` is empty");
      if (c.after) return invalid("`after` or `consumer`, not both: a consumer goes on where it is");
      if (c.where || c.columns || c.maybe || c.snapshot)
        return invalid(
            "a consumer reads a stream, which has no rows to filter or to begin with: leave `where`, `columns`, `maybe` and `snapshot` "
            "out");
    }
    ws_subscribe asked{std::move(*c.channel), *after};
    asked.snapshot = c.snapshot;
    if (c.where || c.columns || c.maybe) {
      if (!asked.channel.starts_with("table:")) return invalid("`where`, `columns` and `maybe` are for the channels of tables");
      if (c.where)
        if (const auto given = feeds::check_given(*c.where); !given) return given.error();
      if (c.columns && c.columns->size() > most_columns) return invalid("`columns` names more columns than a table can have");
      asked.filter = std::make_unique<feeds::view_request>(std::move(c.where).value_or(""), std::move(c.columns), c.maybe);
      if (!asked.filter->asks_anything()) asked.filter.reset();
    }
    asked.consumer = std::move(c.consumer).value_or("");
    return ws_request{*c.id, std::move(asked)};
  }
  if (*c.op == "ack") {
    if (!c.channel || !c.consumer || !c.position) return invalid("`channel`, `consumer` and `position` are needed");
    if (const auto ok = bus::check_channel(*c.channel); !ok) return ok.error();
    if (const auto at = bus::parse_position(*c.position); !at) return at.error();
    return ws_request{*c.id, ws_ack{std::move(*c.channel), std::move(*c.consumer), std::move(*c.position)}};
  }
  if (*c.op == "unsubscribe") {
    if (!is_id(c.sub)) return invalid("`sub` is missing: the id of the subscribe message");
    return ws_request{*c.id, ws_unsubscribe{*c.sub}};
  }
  if (*c.op == "post") {
    if (!c.channel) return invalid("`channel` is missing");
    if (const auto ok = bus::check_post_channel(*c.channel); !ok) return ok.error();
    if (c.payload_member == 0) return invalid("`payload` is missing");
    if (c.has_nul) return invalid("PostgreSQL can store no NUL character (\\u0000)");
    if (c.payload_text) return ws_request{*c.id, ws_post{std::move(*c.channel), std::move(*c.payload_text), bus::payload_form::text}};
    return ws_request{*c.id, ws_post{std::move(*c.channel), std::string{member_bytes(text, c.payload_member)}, bus::payload_form::json}};
  }
  return error{errc::unsupported, "`op` is subscribe, unsubscribe, post or ack"};
}

}  // namespace

std::variant<ws_request, ws_refusal> parse_ws_message(std::string_view text) {
  json::parse_options options;
  options.max_depth = max_depth;
  json::basic_parser<collector> parser{options};
  auto& found = parser.handler();
  json_error why;
  const auto used = parser.write_some(false, text.data(), text.size(), why);
  if (why == json::error::too_deep && is_id(found.id)) return ws_refusal{found.id, invalid("the JSON is nested more than 64 levels deep")};
  if (why || used != text.size() || !parser.done()) return ws_refusal{{}, invalid("a message is one JSON object")};
  if (!found.is_object || !is_id(found.id)) return ws_refusal{{}, invalid("a message is a JSON object with an `id` from 0 to 2^53-1")};
  const auto id = found.id;
  auto request = make_request(found, text);
  if (!request) return ws_refusal{id, request.error()};
  return std::move(*request);
}

void append_ws_ok(std::string& out, std::int64_t id, const bus::position& at) {
  fmt::format_to(std::back_inserter(out), R"({{"id":{},"ok":{{"position":")", id);
  bus::append_text(out, at);
  out += "\"}}";
}

void append_ws_ok(std::string& out, std::int64_t id) { fmt::format_to(std::back_inserter(out), R"({{"id":{},"ok":{{}}}})", id); }

void append_ws_error(std::string& out, std::int64_t id, const error& why) {
  fmt::format_to(std::back_inserter(out), R"({{"id":{},"error":)", id);
  append_problem(out, why);
  out += '}';
}

void append_ws_event(std::string& out, std::int64_t sub, std::string_view event_json) {
  fmt::format_to(std::back_inserter(out), R"({{"sub":{},)", sub);
  out += event_json.substr(1);
}

std::size_t ws_event_bytes(std::int64_t sub, std::string_view event_json) {
  return fmt::formatted_size(R"({{"sub":{},)", sub) + event_json.size() - 1;
}

}  // namespace postbus::gateway
