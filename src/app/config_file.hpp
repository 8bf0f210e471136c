#pragma once
#include <cstddef>
#include <istream>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace postbus::app {

/** One setting of the configuration file: `port = 8000` below `[serve]` is {{"serve"}, "port", {"8000"}}. */
struct config_item {
  std::vector<std::string> tables;
  std::string name;
  std::vector<std::string> values;
  bool is_text{};  ///< one value, in quotes
  std::size_t line{};
};

/** All settings of a TOML document, in no order. errc::invalid_argument with the line for what is no TOML or no option's value. */
result<std::vector<config_item>> parse_config(std::istream& from);

}  // namespace postbus::app
