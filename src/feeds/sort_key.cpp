// One idea carries all comparisons: a key whose bytes sort as PostgreSQL sorts the values. Equality, IN, order and the
// index of views are then comparisons of byte strings, and what PostgreSQL holds equal (1.0 and 1.00, 0 and -0, 'a' and
// 'a ' of char(n), NaN and NaN) has the same key.
#include "feeds/sort_key.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <limits>
#include <optional>

#include "base/bytes.hpp"

namespace postbus::feeds {
namespace {

constexpr std::uint64_t sign_bit = std::uint64_t{1} << 63;

void append_integer(std::string& out, std::int64_t value) { append_big(out, static_cast<std::uint64_t>(value) ^ sign_bit); }

template <class Number>
std::optional<Number> whole(std::string_view text) {
  Number value{};
  const auto* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
  return value;
}

/** float4in and float8in order NaN above all and hold it equal to itself. */
bool append_float(std::string& out, double value) {
  if (value != value) {
    append_big(out, ~std::uint64_t{});
    return true;
  }
  const auto bits = std::bit_cast<std::uint64_t>(value == 0 ? 0.0 : value);
  append_big(out, (bits & sign_bit) != 0 ? ~bits : bits | sign_bit);
  return true;
}

template <class Float>
bool append_float(std::string& out, std::string_view text) {
  if (text == "NaN") return append_float(out, std::numeric_limits<double>::quiet_NaN());
  if (text == "Infinity") return append_float(out, std::numeric_limits<double>::infinity());
  if (text == "-Infinity") return append_float(out, -std::numeric_limits<double>::infinity());
  const auto value = whole<Float>(text);
  return value && append_float(out, static_cast<double>(*value));
}

/** A class byte, the place of the first digit, the digits; for negative numbers the complement of what follows the class. */
bool append_numeric(std::string& out, std::string_view text) {
  enum : char { minus_infinity = 1, negative, zero, positive, infinity, nan };
  if (text == "NaN") return out += nan, true;
  if (text == "Infinity") return out += infinity, true;
  if (text == "-Infinity") return out += minus_infinity, true;
  const bool minus = text.starts_with('-');
  if (minus) text.remove_prefix(1);
  const auto point = text.find('.');
  const auto before = text.substr(0, point), after = point == std::string_view::npos ? std::string_view{} : text.substr(point + 1);
  if (before.empty() || before.find_first_not_of("0123456789") != std::string_view::npos ||
      after.find_first_not_of("0123456789") != std::string_view::npos)
    return false;
  std::string digits;
  digits.append(before).append(after);
  const auto first = digits.find_first_not_of('0');
  if (first == std::string::npos) return out += zero, true;
  const auto last = digits.find_last_not_of('0');
  out += minus ? negative : positive;
  const auto begin = out.size();
  append_integer(out, static_cast<std::int64_t>(before.size()) - static_cast<std::int64_t>(first));
  out.append(digits, first, last + 1 - first);
  out += '\0';
  if (minus)
    for (auto i = begin; i < out.size(); ++i) out[i] = static_cast<char>(~out[i]);
  return true;
}

/** Takes a number of at least `least` digits from the front. */
std::optional<std::int64_t> take_digits(std::string_view& text, std::size_t least) {
  const auto end = std::min(text.find_first_not_of("0123456789"), text.size());
  if (end < least || end > 9) return std::nullopt;
  const auto value = whole<std::int64_t>(text.substr(0, end));
  text.remove_prefix(end);
  return value;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

/** 2026-11-22; the year may have more digits. The sum of its parts, each with room to spare. */
std::optional<std::int64_t> take_date(std::string_view& text, bool before_christ) {
  const auto year = take_digits(text, 4);
  if (!year || !take(text, '-')) return std::nullopt;
  const auto month = take_digits(text, 2);
  if (!month || !take(text, '-')) return std::nullopt;
  const auto day = take_digits(text, 2);
  if (!day) return std::nullopt;
  return ((before_christ ? 1 - *year : *year) * 16 + *month) * 32 + *day;
}

/** 01:02:03.004005 in microseconds. */
std::optional<std::int64_t> take_time(std::string_view& text) {
  const auto hours = take_digits(text, 2);
  if (!hours || !take(text, ':')) return std::nullopt;
  const auto minutes = take_digits(text, 2);
  if (!minutes || !take(text, ':')) return std::nullopt;
  const auto seconds = take_digits(text, 2);
  if (!seconds) return std::nullopt;
  std::int64_t micros = 0;
  if (take(text, '.')) {
    const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto fraction = digits <= 6 ? take_digits(text, 1) : std::nullopt;
    if (!fraction) return std::nullopt;
    micros = *fraction;
    for (auto i = digits; i < 6; ++i) micros *= 10;
  }
  return ((*hours * 60 + *minutes) * 60 + *seconds) * 1'000'000 + micros;
}

bool append_moment(std::string& out, comparable kind, std::string_view text) {
  const bool with_time = kind != comparable::date;
  if (text == "infinity" || text == "-infinity") {
    append_integer(out, text.front() == '-' ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int64_t>::max());
    if (with_time) append_integer(out, 0);
    return true;
  }
  const bool before_christ = text.ends_with(" BC");
  if (before_christ) text.remove_suffix(3);
  const auto date = take_date(text, before_christ);
  if (!date) return false;
  if (!with_time) {
    if (!text.empty()) return false;
    append_integer(out, *date);
    return true;
  }
  if (!take(text, ' ')) return false;
  const auto time = take_time(text);
  if (!time || text != (kind == comparable::timestamptz ? "+00" : "")) return false;
  append_integer(out, *date);
  append_integer(out, *time);
  return true;
}

}  // namespace

comparable comparable_of(oid type) {
  switch (type) {  // pg_type.dat; these never change
    case 16: return comparable::boolean;
    case 20:
    case 21:
    case 23:
    case 26: return comparable::integer;
    case 700: return comparable::float4;
    case 701: return comparable::float8;
    case 1700: return comparable::numeric;
    case 25:
    case 1043: return comparable::text;
    case 1042: return comparable::blank_padded;
    case 17:
    case 2950: return comparable::bytes;
    case 1082: return comparable::date;
    case 1083: return comparable::time;
    case 1114: return comparable::timestamp;
    case 1184: return comparable::timestamptz;
    default: return comparable::none;
  }
}

bool append_sort_key(std::string& out, comparable kind, std::string_view text) {
  switch (kind) {
    case comparable::none: return false;
    case comparable::boolean:
      if (text != "t" && text != "f") return false;
      out += text == "t" ? '\1' : '\0';
      return true;
    case comparable::integer: {
      const auto value = whole<std::int64_t>(text);
      if (value) append_integer(out, *value);
      return value.has_value();
    }
    case comparable::float4: return append_float<float>(out, text);
    case comparable::float8: return append_float<double>(out, text);
    case comparable::numeric: return append_numeric(out, text);
    case comparable::blank_padded: text = text.substr(0, text.find_last_not_of(' ') + 1); [[fallthrough]];
    case comparable::text:
    case comparable::bytes:
    case comparable::enumeration: out += text; return true;
    case comparable::date:
    case comparable::timestamp:
    case comparable::timestamptz: return append_moment(out, kind, text);
    case comparable::time: {
      const auto value = take_time(text);
      if (!value || !text.empty()) return false;
      append_integer(out, *value);
      return true;
    }
  }
  return false;
}

}  // namespace postbus::feeds
