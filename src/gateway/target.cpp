// Our own decoding, and not Boost.URL's: that refuses what curl sends as it was typed (raw UTF-8, braces and quotes in
// `/post?payload={"a":1}`), and rejecting it would break the simplest way of posting.
#include "gateway/target.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "base/json_text.hpp"

namespace postbus::gateway {
namespace {

constexpr std::size_t max_segments = 32;
constexpr std::size_t max_parameters = 1000;

error invalid(std::string text) { return {errc::invalid_argument, std::move(text)}; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/** A name as it may be repeated in an error: short, and printable. */
std::string shown(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 40)) out += c >= ' ' && c <= '~' ? c : '?';
  return out;
}

result<std::string> decode_checked(std::string_view text, bool form) {
  auto decoded = percent_decode(text, form);
  if (!decoded) return decoded;
  if (!is_utf8(*decoded)) return invalid("the request target is not UTF-8 once decoded");
  if (decoded->contains('\0')) return invalid("the request target must not hold a NUL");
  return decoded;
}

}  // namespace

result<std::string> percent_decode(std::string_view text, bool form) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '%') {
      if (text.size() - i < 3) return invalid("the request target ends inside a percent escape");
      const int a = hex_digit(text[i + 1]), b = hex_digit(text[i + 2]);
      if (a < 0 || b < 0) return invalid("the request target holds a % that no two hex digits follow; write %25 for a percent sign");
      out += static_cast<char>(a * 16 + b);
      i += 2;
    } else {
      out += form && c == '+' ? ' ' : c;
    }
  }
  return out;
}

result<target> target::parse(std::string_view raw) {
  target out;
  raw = raw.substr(0, raw.find('#'));  // a fragment is never sent by a browser; others mean nothing by it
  const auto question = raw.find('?');
  out.path_ = raw.substr(0, question);

  if (out.path_.size() > 1) {
    for (auto rest = std::string_view{out.path_}.substr(1);;) {
      const auto slash = rest.find('/');
      if (out.segments_.size() == max_segments) return invalid("the path has too many segments");
      auto segment = decode_checked(rest.substr(0, slash), false);
      if (!segment) return segment.error();
      out.segments_.push_back(std::move(*segment));
      if (slash == std::string_view::npos) break;
      rest.remove_prefix(slash + 1);
    }
  }
  if (question == std::string_view::npos) return out;

  for (auto rest = raw.substr(question + 1); !rest.empty();) {
    const auto end = std::min(rest.find('&'), rest.size());
    const auto pair = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (pair.empty()) continue;
    if (out.parameters_.size() == max_parameters) return invalid("the query has too many parameters");
    const auto equals = std::min(pair.find('='), pair.size());
    auto name = decode_checked(pair.substr(0, equals), true);
    if (!name) return name.error();
    auto value = decode_checked(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!value) return value.error();
    out.parameters_.push_back({std::move(*name), std::move(*value)});
  }
  return out;
}

result<std::optional<std::string_view>> target::one(std::string_view name) const {
  std::optional<std::string_view> found;
  for (const auto& p : parameters_) {
    if (p.name != name) continue;
    if (found) return invalid(fmt::format("`{}` is given twice", name));
    found = p.value;
  }
  return found;
}

result<std::string_view> target::required(std::string_view name) const {
  const auto found = one(name);
  if (!found) return found.error();
  if (!*found) return invalid(fmt::format("`{}=` is missing", name));
  return **found;
}

std::vector<std::string_view> target::all(std::string_view name) const {
  std::vector<std::string_view> values;
  for (const auto& p : parameters_)
    if (p.name == name) values.push_back(p.value);
  return values;
}

result<> target::only(std::initializer_list<std::string_view> known) const {
  for (const auto& p : parameters_)
    if (p.name != "access_token" && std::ranges::find(known, p.name) == known.end())
      return invalid(fmt::format("`{}` is no parameter of this resource; it knows {}", shown(p.name),
                                 known.size() == 0 ? "none" : fmt::format("{}", fmt::join(known, ", "))));
  return {};
}

result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto bad = [] { return invalid("a duration looks like 30s, 500ms, 5m, 1h or 30 (seconds)"); };
  // Digits with at most one point, by hand: from_chars would also take inf, nan and exponents.
  std::int64_t whole = 0, fraction = 0, scale = 1;
  std::size_t i = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    if (i >= 12) return bad();
    whole = whole * 10 + (text[i] - '0');
  }
  if (i == 0) return bad();
  if (i < text.size() && text[i] == '.') {
    const auto point = i++;
    for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
      if (i - point > 6) return bad();
      fraction = fraction * 10 + (text[i] - '0');
      scale *= 10;
    }
    if (i == point + 1) return bad();
  }
  const auto unit = text.substr(i);
  const std::int64_t factor = unit.empty() || unit == "s" ? 1000 : unit == "ms" ? 1 : unit == "m" ? 60'000 : unit == "h" ? 3'600'000 : 0;
  if (factor == 0) return bad();
  return std::chrono::milliseconds{whole * factor + fraction * factor / scale};
}

result<std::chrono::milliseconds> target::duration(std::string_view name, std::chrono::milliseconds absent,
                                                   std::chrono::milliseconds most) const {
  const auto text = one(name);
  if (!text) return text.error();
  if (!*text) return absent;
  const auto parsed = parse_duration(**text);
  if (!parsed) return invalid(fmt::format("`{}`: {}", name, parsed.error().text));
  if (*parsed > most) return invalid(fmt::format("`{}` may be at most {} s", name, most.count() / 1000));
  return parsed;
}

result<bool> target::flag(std::string_view name, bool absent) const {
  const auto text = one(name);
  if (!text) return text.error();
  if (!*text) return absent;
  if (**text == "true" || **text == "1" || (*text)->empty()) return true;
  if (**text == "false" || **text == "0") return false;
  return invalid(fmt::format("`{}` is true or false", name));
}

result<bus::start> target::start(std::string_view name) const {
  const auto text = one(name);
  if (!text) return text.error();
  if (!*text) return bus::start{bus::from_now{}};
  return bus::parse_start(**text);
}

result<wire_format> target::format(wire_format absent) const {
  const auto text = one("format");
  if (!text) return text.error();
  if (!*text) return absent;
  if (**text == "payload") return wire_format::payload;
  if (**text == "event") return wire_format::event;
  return invalid("`format` is payload or event");
}

}  // namespace postbus::gateway
