// COPY's text format (PostgreSQL manual, COPY, "Text Format"): a line per row, tabs between columns, \N for NULL, and a
// backslash before what would be mistaken otherwise. The server escapes line ends, tabs and backslashes within values, so a
// tab or a line end that stands there bare is a separator.
#include "feeds/copied_row.hpp"

#include <cstring>

#include "base/json_text.hpp"

namespace postbus::feeds {

copied_rows::copied_rows(std::string_view schema, std::string_view table, const std::vector<column>& columns, type_table types)
    : types_{std::move(types)} {
  head_ = R"({"schema":)";
  append_json_string(head_, schema);
  head_ += R"(,"table":)";
  append_json_string(head_, table);
  head_ += R"(,"action":"ROW","data":{)";
  for (const auto& c : columns) {
    auto& k = keys_.emplace_back();
    if (keys_.size() > 1) k.text = ",";
    append_json_string(k.text, c.name);
    k.text += ':';
    k.type = types_.find(c.type);
  }
}

std::string_view copied_rows::unescape(std::string_view field) {
  auto at = field.find('\\');
  if (at == std::string_view::npos) return field;
  plain_.assign(field.substr(0, at));
  while (at < field.size()) {
    if (field[at] != '\\' || at + 1 == field.size()) {
      plain_ += field[at++];
      continue;
    }
    const char c = field[at + 1];
    plain_ += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'v' ? '\v' : c;
    at += 2;
  }
  return plain_;
}

bool copied_rows::append(std::string& out, std::string_view line) {
  if (line.ends_with('\n')) line.remove_suffix(1);
  out += head_;
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    const bool last = i + 1 == keys_.size();
    const auto* const tab = static_cast<const char*>(std::memchr(line.data(), '\t', line.size()));
    if ((tab == nullptr) != last) return false;
    const auto field = last ? line : line.substr(0, static_cast<std::size_t>(tab - line.data()));
    if (!last) line.remove_prefix(field.size() + 1);
    out += keys_[i].text;
    if (field == "\\N")
      out += "null";
    else
      append_value(out, *keys_[i].type, unescape(field));
  }
  out += "}}";
  return true;
}

}  // namespace postbus::feeds
