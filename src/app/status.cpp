#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "app/commands.hpp"
#include "app/terminal.hpp"

namespace postbus::app {
namespace {

namespace json = boost::json;

constexpr std::size_t shown_channels = 40;

/** A scalar for people; what kind of number it is follows from the end of its name, as in Prometheus. */
std::string text_of(std::string_view name, const json::value& value) {
  if (value.is_string()) return std::string{value.get_string()};
  if (value.is_bool()) return value.get_bool() ? "yes" : "no";
  if (value.is_null()) return name == "lag_ms" ? "unknown" : "-";
  if (!value.is_number() || name == "server_version") return json::serialize(value);
  const auto number = value.to_number<double>();
  if (name.ends_with("_per_s")) return number < 100 ? fmt::format("{:.1f}", number) : grouped(static_cast<long long>(number));
  if (name.ends_with("_bytes")) return human_bytes(number);
  if (name.ends_with("_s") || name.ends_with("_seconds"))
    return number < 100 ? fmt::format("{:.3g} s", number) : grouped(static_cast<long long>(number)) + " s";
  if (name.ends_with("_ms")) return fmt::format("{:.3g} ms", number);
  if (number == static_cast<double>(static_cast<long long>(number))) return grouped(static_cast<long long>(number));
  return fmt::format("{:.2f}", number);
}

std::string label_of(std::string_view name) {
  std::string out{name};
  for (const std::string_view unit : {"_bytes", "_seconds", "_s", "_ms"})
    if (out.ends_with(unit) && !out.ends_with("_per_s")) {
      out.resize(out.size() - unit.size());
      break;
    }
  std::ranges::replace(out, '_', ' ');
  return out;
}

style style_of(std::string_view name, const json::value& value) {
  if (name == "ready") return value.is_bool() && value.get_bool() ? style::good : style::bad;
  if (name == "draining") return value.is_bool() && value.get_bool() ? style::warn : style::plain;
  return style::plain;
}

/** The names of watched tables. */
std::string tables_of(const json::array& watched) {
  std::string out;
  for (const auto& entry : watched)
    if (const auto* name = entry.is_object() ? entry.get_object().if_contains("table") : nullptr; name && name->is_string())
      out += (out.empty() ? "" : ", ") + std::string{name->get_string()};
  return out.empty() ? "no table" : out;
}

/** One object's members as lines; an object within stands under its name. */
void add_members(table& out, const json::object& of, const std::string& prefix) {
  for (const auto& member : of) {
    const std::string_view name{member.key().data(), member.key().size()};
    if (member.value().is_string() && member.value().get_string().empty()) continue;
    if (member.value().is_object())
      add_members(out, member.value().get_object(), prefix + label_of(name) + ' ');
    else if (name == "watched" && member.value().is_array())
      out.add({{label_of(name), style::faint}, {tables_of(member.value().get_array())}});
    else if (!member.value().is_array())
      out.add({{prefix + label_of(name), style::faint}, {text_of(name, member.value()), style_of(name, member.value())}});
  }
}

/** Streams that hold more than they should; nothing while all keep their bounds. */
void print_streams(const json::array& streams, const terminal& on) {
  table out{{{"stream past its bound"}, {"size", table::align::right}, {"bound", table::align::right}}};
  for (const auto& entry : streams) {
    if (!entry.is_object()) continue;
    const auto& s = entry.get_object();
    const auto* const past = s.if_contains("past_bytes");
    if (!past || !past->is_bool() || !past->get_bool()) continue;
    const auto text = [&](std::string_view name) {
      const auto* value = s.if_contains(json::string_view{name.data(), name.size()});
      return value ? text_of(name, *value) : std::string{};
    };
    out.add({{visible(text("channel")), style::warn},
             {human_bytes(s.at("bytes").to_number<double>())},
             {human_bytes(s.at("max_bytes").to_number<double>())}});
  }
  if (!out.empty()) fmt::print("\n{}", out.text(on));
}

void print_channels(const json::array& channels, const terminal& on) {
  table out{{{"channel"}, {"listeners", table::align::right}, {"events", table::align::right}, {"last"}}};
  for (const auto& entry : channels) {
    if (!entry.is_object() || out.size() == shown_channels) continue;
    const auto& channel = entry.get_object();
    const auto text = [&](std::string_view name) {
      const auto* value = channel.if_contains(json::string_view{name.data(), name.size()});
      return value ? text_of(name, *value) : std::string{};
    };
    out.add({{text("name"), style::name}, {text("listeners")}, {text("events")}, {text("last"), style::faint}});
  }
  if (out.empty()) return;
  fmt::print("\n{}", out.text(on));
  if (channels.size() > shown_channels) fmt::print("… and {} more (--json lists them)\n", channels.size() - shown_channels);
}

}  // namespace

int status(const targets& at, const status_options& options) {
  const auto gateway = gateway_of(at);
  if (!gateway) return tell_unattached(gateway.error());
  std::string document;
  try {
    auto to = connect_client(at, *gateway);
    document = to.status();
  } catch (const request_error& why) {
    return tell(why);
  }
  while (document.ends_with('\n')) document.pop_back();
  if (options.json) {
    fmt::print("{}\n", document);
    return exit_ok;
  }
  boost::system::error_code ec;
  const auto parsed = json::parse(document, ec);
  if (ec || !parsed.is_object())
    return tell(exit_failed, fmt::format("{} did not answer with a status: is it a Postbus gateway?", *gateway));
  const terminal on{stdout};
  table out{{{}, {}}};
  out.add({{"gateway", style::faint}, {*gateway, style::strong}});
  add_members(out, parsed.get_object(), {});
  fmt::print("{}", out.text(on));
  if (const auto* streams = parsed.get_object().if_contains("streams"); streams && streams->is_array())
    print_streams(streams->get_array(), on);
  if (const auto* channels = parsed.get_object().if_contains("channels"); channels && channels->is_array())
    print_channels(channels->get_array(), on);
  return exit_ok;
}

}  // namespace postbus::app
