#include "app/config_file.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

namespace postbus::app {
namespace {

error refuse(const toml::node& at, std::string_view why) {
  return error{errc::invalid_argument, fmt::format("line {} of the configuration file: {}", at.source().begin.line, why)};
}

result<std::string> scalar(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* flag = node.as_boolean()) return std::string{flag->get() ? "true" : "false"};
  return refuse(node, "a setting is a string, a whole number, true or false, or a list of those");
}

result<> collect(const toml::table& from, std::vector<std::string>& path, std::vector<config_item>& into) {
  for (const auto& [key, node] : from) {
    const std::string name{key.str()};
    if (const auto* inner = node.as_table()) {
      path.push_back(name);
      if (const auto done = collect(*inner, path, into); !done) return done;
      path.pop_back();
      continue;
    }
    config_item item{.tables = path, .name = name, .values = {}, .is_text = node.is_string(), .line = node.source().begin.line};
    if (const auto* list = node.as_array()) {
      for (const auto& element : *list) {
        auto value = scalar(element);
        if (!value) return value.error();
        item.values.push_back(std::move(*value));
      }
    } else {
      auto value = scalar(node);
      if (!value) return value.error();
      item.values.push_back(std::move(*value));
    }
    into.push_back(std::move(item));
  }
  return {};
}

}  // namespace

result<std::vector<config_item>> parse_config(std::istream& from) {
  try {
    const auto document = toml::parse(from);
    std::vector<config_item> out;
    std::vector<std::string> path;
    if (const auto done = collect(document, path, out); !done) return done.error();
    return out;
  } catch (const toml::parse_error& broken) {
    return error{errc::invalid_argument,
                 fmt::format("line {} of the configuration file: {}", broken.source().begin.line, broken.description())};
  }
}

}  // namespace postbus::app
