#include "witness.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>

#include <algorithm>
#include <set>
#include <stdexcept>

namespace postbus::testing_support {
namespace {

namespace json = boost::json;

bool take(std::string_view& rest, std::string_view word) {
  if (!rest.starts_with(word)) return false;
  rest.remove_prefix(word.size());
  return true;
}

/** What stands between quotes that are doubled within; `rest` begins behind the first. */
std::string take_quoted(std::string_view& rest, char quote) {
  std::string text;
  while (!rest.empty()) {
    const char c = rest.front();
    rest.remove_prefix(1);
    if (c == quote && !take(rest, {&quote, 1})) return text;
    text += c;
  }
  throw std::runtime_error{"test_decoding: a quote is not closed"};
}

std::string take_until(std::string_view& rest, std::string_view ends) {
  const auto at = std::min(rest.find_first_of(ends), rest.size());
  std::string text{rest.substr(0, at)};
  rest.remove_prefix(at);
  return text;
}

std::string take_name(std::string_view& rest, std::string_view ends) {
  return take(rest, "\"") ? take_quoted(rest, '"') : take_until(rest, ends);
}

/** One JSON value as it stands at the front, with the space around it. */
std::string_view take_json(std::string_view& rest) {
  int depth = 0;
  bool quoted = false;
  std::size_t at = 0;
  for (; at < rest.size(); ++at) {
    const char c = rest[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (depth > 0 && (c == '}' || c == ']')) {
      --depth;
    } else if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':')) {
      break;
    }
  }
  const auto value = rest.substr(0, at);
  rest.remove_prefix(at);
  return value;
}

std::string text_of(std::string_view quoted) { return std::string{json::parse({quoted.data(), quoted.size()}).as_string()}; }

/** An object's members, their values as they stand there. */
columns members(std::string_view object) {
  columns all;
  take(object, "{");
  while (!object.empty() && !take(object, "}")) {
    auto name = text_of(take_json(object));
    take(object, ":");
    if (!all.emplace(std::move(name), take_json(object)).second) throw std::runtime_error{"a column comes twice"};
    take(object, ",");
  }
  return all;
}

bool is_null(const columns::value_type& column) { return column.second == "null"; }

std::string text_of(const columns& all) {
  std::string text;
  for (const auto& [name, value] : all) text += fmt::format(" {}={}", name, value);
  return text;
}

std::string line_of(std::string_view table, std::string_view action, const columns& row, const columns& old) {
  return fmt::format("{} {}{}{}{}", table, action, text_of(row), old.empty() ? "" : " old", text_of(old));
}

std::string told(const bus::event& e) {
  using kind = bus::kind;
  if (e.kind == kind::message)
    return fmt::format("message {} {} {}", e.channel, e.form == bus::payload_form::json ? "json" : "text", e.payload);
  if (e.kind != kind::insert && e.kind != kind::update && e.kind != kind::delete_ && e.kind != kind::truncate)
    return fmt::format("{} {}", to_text(e.kind), e.payload);
  auto payload = members(e.payload);
  if (payload["xid"] != std::to_string(e.xid)) return fmt::format("a payload of transaction {}", payload["xid"]);
  auto row = e.kind == kind::truncate ? columns{} : members(payload["data"]);
  auto old = payload.contains("old") ? members(payload["old"]) : columns{};
  if (e.kind == kind::delete_) std::swap(row, old);
  std::erase_if(old, is_null);
  if (payload.contains("unchanged"))
    for (const auto& name : json::parse(payload["unchanged"]).as_array()) row[std::string{name.as_string()}] = "unchanged";
  return line_of(text_of(payload["schema"]) + '.' + text_of(payload["table"]), text_of(payload["action"]), row, old);
}

}  // namespace

witness::witness(const database& db, naming feed_of) : session_{db.url()}, feed_of_{std::move(feed_of)} {
  session_.psql("set timezone = 'UTC'; select pg_create_logical_replication_slot('witness', 'test_decoding')");
}

witness::~witness() { session_.refused("select pg_drop_replication_slot('witness')"); }

/** ` id[integer]:1 name[text]:'it''s'`, to the end or to what is no column. */
witness::tuple witness::read_tuple(std::string_view& rest) {
  tuple all;
  while (!rest.empty() && !rest.starts_with(" new-tuple:")) {
    if (!take(rest, " ")) throw std::runtime_error{fmt::format("test_decoding: no column: {}", rest)};
    auto name = take_name(rest, "[");
    const auto end = rest.find("]:");
    auto& v = all[std::move(name)];
    v.type = rest.substr(1, end - 1);
    rest.remove_prefix(end + 2);
    if (take(rest, "'")) {
      v.text = take_quoted(rest, '\'');
      continue;
    }
    v.text = take_until(rest, " ");
    if (v.text == "null") v.is = value::kind::null;
    if (v.text == "unchanged-toast-datum") v.is = value::kind::unchanged;
  }
  return all;
}

void witness::read(std::uint64_t lsn, std::uint64_t xid, std::string_view rest, std::vector<change>& into) const {
  change made;
  made.lsn = lsn;
  made.xid = xid;
  if (take(rest, "message: transactional: 1 prefix: postbus:")) {
    const auto json = rest.starts_with("j:");
    if (!json && !rest.starts_with("t:")) return;
    const auto channel = rest.substr(2, rest.find(", sz: ") - 2);
    made.message = fmt::format("message {} {} {}", channel, json ? "json" : "text", rest.substr(rest.find(" content:") + 9));
    auto place = into.end();
    while (place != into.begin() && std::prev(place)->xid == xid && std::prev(place)->lsn == lsn && !std::prev(place)->table.empty())
      --place;
    into.insert(place, std::move(made));
    return;
  }
  if (!take(rest, "table ")) return;
  std::vector<std::string> tables;
  do {
    auto name = take_name(rest, ".") + '.';
    take(rest, ".");
    tables.push_back(name + take_name(rest, ",:"));
  } while (take(rest, ", "));
  take(rest, ": ");
  made.action = take_until(rest, ":");
  take(rest, ":");
  if (made.action == "TRUNCATE") {  // of a partitioned table all partitions are named beside it, and the feed tells it once
    for (const auto& t : tables)
      if ((made.table = feed_of_(t)) == t) into.push_back(made);
    return;
  }
  const bool stream = tables[0].starts_with("postbus.messages_") && made.action == "INSERT";
  made.table = stream ? "postbus.messages" : feed_of_(tables[0]);
  if (made.table.empty()) return;
  if (take(rest, " old-key:")) made.old = read_tuple(rest);
  take(rest, " new-tuple:");
  (made.action == "DELETE" ? made.old : made.row) = read_tuple(rest);
  if (stream) {
    auto& row = *made.row;
    made.message =
        fmt::format("message {} {} {}", row["channel"].text, row["is_json"].text == "true" ? "json" : "text", row["payload"].text);
  }
  into.push_back(std::move(made));
}

void witness::to_json(const std::vector<change>& all) {
  std::map<std::string, std::set<std::string>> unknown;
  for (const auto& c : all)
    for (const auto* of : {&c.old, &c.row})
      if (*of && c.message.empty())
        for (const auto& [name, v] : **of)
          if (v.is == value::kind::known) unknown[v.type].insert(v.text);
  json_.clear();
  for (const auto& [type, texts] : unknown) {
    const auto given = json::serialize(json::value_from(texts));
    std::string quoted;
    for (const char c : given) quoted += c == '\'' ? "''" : std::string{c};
    const auto answer = json::parse(session_.psql(fmt::format(
        "select json_agg(to_json(v::{})::text order by n) from json_array_elements_text('{}') with ordinality t(v, n)", type, quoted)));
    std::size_t n = 0;
    for (const auto& text : texts) json_[{type, text}] = std::string{answer.at(n++).as_string()};
  }
}

/** `old`: where a value that is not in the new row is found. */
columns witness::written(const tuple& of, const tuple* old, bool with_nulls) const {
  columns all;
  for (const auto& [name, v] : of) {
    const auto* from = &v;
    if (v.is == value::kind::unchanged && old != nullptr && old->contains(name)) from = &old->at(name);
    if (from->is == value::kind::known)
      all[name] = json_.at({from->type, from->text});
    else if (from->is == value::kind::unchanged)
      all[name] = "unchanged";
    else
      all[name] = "null";
  }
  if (!with_nulls) std::erase_if(all, is_null);
  return all;
}

std::vector<std::string> witness::account() {
  const auto said = session_.psql(
      "select coalesce(json_agg(json_build_array((lsn - '0/0')::bigint, xid::text::bigint, data) order by n), '[]') "
      "from pg_logical_slot_get_changes('witness', null, null) with ordinality t(lsn, xid, data, n)");
  std::vector<change> all;
  std::vector<std::uint64_t> ends;  // of each change's commit
  for (const auto& row : json::parse(said).as_array()) {
    const auto& line = row.at(2).as_string();
    const auto lsn = row.at(0).to_number<std::uint64_t>();
    if (std::string_view{line}.starts_with("COMMIT"))
      ends.resize(all.size(), lsn);
    else
      read(lsn, row.at(1).to_number<std::uint64_t>(), line, all);
  }
  to_json(all);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& c = all[i];
    auto line = c.message;
    if (line.empty())
      line = line_of(c.table, c.action, c.row ? written(*c.row, c.old ? &*c.old : nullptr, true) : columns{},
                     c.old ? written(*c.old, nullptr, false) : columns{});
    lines.push_back(fmt::format("{:x} {} {}", ends.at(i), c.xid, line));
  }
  return lines;
}

std::vector<std::string> account(const std::vector<bus::event_ref>& events) {
  std::vector<std::string> lines;
  for (const auto& e : events)
    if (e->kind != bus::kind::schema) lines.push_back(fmt::format("{:x} {} {}", e->at.lsn, e->xid, told(*e)));
  return lines;
}

std::string difference(const std::vector<std::string>& ours, const std::vector<std::string>& theirs) {
  if (ours == theirs) return {};
  const auto same = static_cast<std::size_t>(std::ranges::mismatch(ours, theirs).in1 - ours.begin());
  const auto line = [same](const std::vector<std::string>& lines) { return same < lines.size() ? lines[same] : std::string{"(nothing)"}; };
  const auto one = line(ours), other = line(theirs);
  const auto from = static_cast<std::size_t>(std::ranges::mismatch(one, other).in1 - one.begin());
  const auto around = [from](const std::string& text) {
    const auto start = from < 60 ? 0 : from - 60;
    return fmt::format("{} … {}", text.substr(0, 40), text.substr(std::min(start, text.size()), 200));
  };
  const auto some = [](const std::vector<std::string>& lines, std::size_t from_line, std::size_t to) {
    std::string text;
    for (auto i = from_line; i < std::min(to, lines.size()); ++i) text += fmt::format("  {}\n", lines[i].substr(0, 160));
    return text;
  };
  return fmt::format("change {} differs, of {} and {}. After\n{}listeners were told\n  {}\n{}and test_decoding tells\n  {}\n{}", same,
                     ours.size(), theirs.size(), some(ours, same < 3 ? 0 : same - 3, same), around(one), some(ours, same + 1, same + 4),
                     around(other), some(theirs, same + 1, same + 4));
}

}  // namespace postbus::testing_support
