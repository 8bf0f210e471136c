// The text form of values to JSON, by the rules of row_to_json (PostgreSQL, utils/adt/json.c: json_categorize_type and
// datum_to_json). The walsender sends text; what row_to_json decides by a value's type is decided here by the type's oid.
//
// One difference: a type with its own cast to json (hstore) is written by that cast in row_to_json and as a string here,
// because only the server can run the cast.
#include "feeds/value_type.hpp"

#include <algorithm>
#include <optional>

#include "base/json_text.hpp"

namespace postbus::feeds {
namespace {

constexpr int deepest = 64;  // of nested types; PostgreSQL itself stops far later

struct built_in {
  oid type;
  oid array;
  shape form;
  char delimiter = ',';
};
// The types whose form is not text, and the arrays of the common ones (pg_type.dat); all others are looked up.
constexpr built_in built_ins[] = {
    {16, 1000, shape::boolean},    {21, 1005, shape::number},      {23, 1007, shape::number},        {20, 1016, shape::number},
    {700, 1021, shape::number},    {701, 1022, shape::number},     {1700, 1231, shape::number},      {114, 199, shape::json},
    {3802, 3807, shape::json},     {1114, 1115, shape::timestamp}, {1184, 1185, shape::timestamptz}, {25, 1009, shape::text},
    {1043, 1015, shape::text},     {1042, 1014, shape::text},      {18, 1002, shape::text},          {19, 1003, shape::text},
    {17, 1001, shape::text},       {26, 1028, shape::text},        {28, 1011, shape::text},          {29, 1012, shape::text},
    {27, 1010, shape::text},       {5069, 271, shape::text},       {1082, 1182, shape::text},        {1083, 1183, shape::text},
    {1266, 1270, shape::text},     {1186, 1187, shape::text},      {2950, 2951, shape::text},        {869, 1041, shape::text},
    {650, 651, shape::text},       {829, 1040, shape::text},       {774, 775, shape::text},          {790, 791, shape::text},
    {1560, 1561, shape::text},     {1562, 1563, shape::text},      {142, 143, shape::text},          {3614, 3643, shape::text},
    {3615, 3645, shape::text},     {600, 1017, shape::text},       {601, 1018, shape::text},         {602, 1019, shape::text},
    {603, 1020, shape::text, ';'}, {604, 1027, shape::text},       {628, 629, shape::text},          {718, 719, shape::text},
    {3904, 3905, shape::text},     {3906, 3907, shape::text},      {3908, 3909, shape::text},        {3910, 3911, shape::text},
    {3912, 3913, shape::text},     {3926, 3927, shape::text},      {3220, 3221, shape::text},        {2205, 2210, shape::text},
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_number(std::string& out, std::string_view text) {
  const auto first = text.starts_with('-') ? 1u : 0u;
  if (text.size() > first && is_digit(text[first]))
    out += text;
  else
    append_json_string(out, text);  // NaN, Infinity
}

/** 2026-11-22 02:11:43.5+00 → "2026-11-22T02:11:43.5+00:00"; "infinity" and "… BC" keep what is theirs. */
void append_timestamp(std::string& out, std::string_view text, bool zone) {
  const auto blank = text.find(' ');
  if (blank == std::string_view::npos || !is_digit(text.front())) return append_json_string(out, text);
  auto clock = text.substr(blank + 1);
  const auto era = clock.find(' ');
  const auto tail = era == std::string_view::npos ? std::string_view{} : clock.substr(era);
  clock = clock.substr(0, era);
  out += '"';
  out += text.substr(0, blank);
  out += 'T';
  out += clock;
  // The session's timezone is UTC: the offset is +00.
  if (zone && clock.size() > 3 && (clock[clock.size() - 3] == '+' || clock[clock.size() - 3] == '-')) out += ":00";
  out += tail;
  out += '"';
}

/** A quoted element or field: "" and \x stand for one character. Leaves `text` behind the closing quote. */
bool unquote(std::string_view& text, std::string& plain, bool doubled) {
  text.remove_prefix(1);
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (c == '"') {
      if (!doubled || text.empty() || text.front() != '"') return true;
      text.remove_prefix(1);
      plain += '"';
    } else if (c == '\\') {
      if (text.empty()) return false;
      plain += text.front();
      text.remove_prefix(1);
    } else {
      plain += c;
    }
  }
  return false;
}

/** An unquoted element or field, up to one of `ends`, which stays. */
bool take_plain(std::string_view& text, std::string& plain, std::string_view ends) {
  while (!text.empty() && ends.find(text.front()) == std::string_view::npos) {
    if (text.front() == '\\') {
      text.remove_prefix(1);
      if (text.empty()) return false;
    }
    plain += text.front();
    text.remove_prefix(1);
  }
  return !text.empty();
}

/** One level of an array from its `{` on, and behind it what follows. `fits`: cleared when an element is not what its type promises. */
bool append_array(std::string& out, const value_type& type, const value_type& element, std::string_view& text, int depth, bool& fits) {
  if (depth > 6 || text.empty() || text.front() != '{') return false;  // MAXDIM is 6
  text.remove_prefix(1);
  out += '[';
  const char ends[] = {type.delimiter, '}'};
  std::string plain;
  for (bool first = true;; first = false) {
    if (first && text.starts_with('}')) break;
    if (!first) out += ',';
    if (text.starts_with('{')) {
      if (!append_array(out, type, element, text, depth + 1, fits)) return false;
    } else {
      plain.clear();
      const bool quoted = text.starts_with('"');
      const bool taken = quoted ? unquote(text, plain, false) : take_plain(text, plain, {ends, 2});
      if (!taken) return false;
      if (!quoted && plain == "NULL")
        out += "null";
      else
        fits &= append_value(out, element, plain);
    }
    if (text.empty()) return false;
    if (text.front() == '}') break;
    if (text.front() != type.delimiter) return false;
    text.remove_prefix(1);
  }
  text.remove_prefix(1);
  out += ']';
  return true;
}

bool append_composite(std::string& out, const value_type& type, std::string_view text, bool& fits) {
  if (text.empty() || text.front() != '(') return false;
  text.remove_prefix(1);
  out += '{';
  std::string plain;
  for (bool first = true; const auto& field : type.fields) {
    if (!first) {
      if (!text.starts_with(',')) return false;
      text.remove_prefix(1);
      out += ',';
    }
    first = false;
    out += field.key;
    if (field.of == nullptr) return false;
    if (text.starts_with(',') || text.starts_with(')')) {
      out += "null";
      continue;
    }
    plain.clear();
    // Parts may be quoted and not, one after the other.
    while (!text.empty() && text.front() != ',' && text.front() != ')')
      if (!(text.front() == '"' ? unquote(text, plain, true) : take_plain(text, plain, ",)\""))) return false;
    fits &= append_value(out, *field.of, plain);
  }
  out += '}';
  return text == ")";
}

bool append_vector(std::string& out, const value_type& element, std::string_view text) {
  out += '[';
  for (bool first = true; !text.empty(); first = false) {
    if (!first) out += ',';
    const auto end = text.find(' ');
    append_value(out, element, text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  }
  out += ']';
  return true;
}

}  // namespace

bool append_value(std::string& out, const value_type& type, std::string_view text) {
  const auto start = out.size();
  bool written = true, fits = true;
  switch (type.form) {
    case shape::text: append_json_string(out, text); break;
    case shape::number: append_number(out, text); break;
    case shape::boolean: out += text == "t" ? "true" : "false"; break;
    case shape::json: out += text; break;
    case shape::timestamp: append_timestamp(out, text, false); break;
    case shape::timestamptz: append_timestamp(out, text, true); break;
    case shape::array: {
      // [0:2]={…} where a bound is not 1
      if (text.starts_with('[')) text.remove_prefix(std::min(text.size(), text.find('=') + 1));
      written = type.of != nullptr && append_array(out, type, *type.of, text, 1, fits) && text.empty();
      break;
    }
    case shape::vector: written = type.of != nullptr && append_vector(out, *type.of, text); break;
    case shape::composite: written = append_composite(out, type, text, fits); break;
  }
  if (written) return fits;
  out.resize(start);
  append_json_string(out, text);
  return false;
}

type_table::type_table() {
  const value_type* plain[6];
  for (const auto form : {shape::text, shape::number, shape::boolean, shape::json, shape::timestamp, shape::timestamptz})
    plain[static_cast<std::size_t>(form)] = make({.form = form, .fields = {}});
  for (const auto& b : built_ins) {
    by_oid_[b.type] = plain[static_cast<std::size_t>(b.form)];
    by_oid_[b.array] = make({.form = shape::array, .delimiter = b.delimiter, .element = b.type, .of = by_oid_[b.type], .fields = {}});
  }
  by_oid_[22] = make({.form = shape::vector, .element = 21, .of = by_oid_[21], .fields = {}});
  by_oid_[30] = make({.form = shape::vector, .element = 26, .of = by_oid_[26], .fields = {}});
}

value_type* type_table::make(value_type made) { return made_.emplace_back(std::make_unique<value_type>(std::move(made))).get(); }

const value_type* type_table::find(oid type) const {
  const auto found = by_oid_.find(type);
  return found == by_oid_.end() ? nullptr : found->second;
}

const value_type* type_table::resolve(oid type, const boost::unordered_flat_map<oid, const type_row*>& rows, int depth) {
  if (const auto* known = find(type)) return known;
  const auto row = rows.find(type);
  const value_type* made = nullptr;
  if (row == rows.end() || depth > deepest) {
    made = make({});
  } else if (row->second->base != 0) {
    made = resolve(row->second->base, rows, depth + 1);
  } else if (row->second->element != 0) {
    auto* const array = make({.form = shape::array, .delimiter = row->second->delimiter, .element = row->second->element, .fields = {}});
    made = by_oid_[type] = array;
    array->of = resolve(row->second->element, rows, depth + 1);
  } else if (!row->second->attributes.empty()) {
    value_type composite{.form = shape::composite, .fields = {}};
    for (const auto& a : row->second->attributes) {
      auto& field = composite.fields.emplace_back();
      append_json_string(field.key, a.name);
      field.key += ':';
    }
    auto* const whole = make(std::move(composite));
    made = by_oid_[type] = whole;
    for (std::size_t i = 0; i < whole->fields.size(); ++i) whole->fields[i].of = resolve(row->second->attributes[i].type, rows, depth + 1);
  } else {
    made = make({});
  }
  by_oid_[type] = made;
  return made;
}

void type_table::add(const std::vector<type_row>& found, const std::vector<oid>& asked) {
  boost::unordered_flat_map<oid, const type_row*> rows;
  for (const auto& row : found) rows[row.type] = &row;
  for (const auto type : asked) resolve(type, rows, 0);
}

}  // namespace postbus::feeds
