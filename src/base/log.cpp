#include "base/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "base/json_text.hpp"

namespace postbus::log {
namespace {

bool as_json = false;

spdlog::level::level_enum to_spdlog(level at) {
  switch (at) {
    case level::debug: return spdlog::level::debug;
    case level::info: return spdlog::level::info;
    case level::warning: return spdlog::level::warn;
    case level::error: return spdlog::level::err;
  }
  return spdlog::level::err;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> shared = [] {
    auto made = std::make_shared<spdlog::logger>("postbus", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%-7l%$ %v");
    made->set_level(spdlog::level::info);
    return made;
  }();
  return *shared;
}

}  // namespace

void configure(level lowest, bool json) {
  as_json = json;
  logger().set_level(to_spdlog(lowest));
  if (json) logger().set_pattern(R"({"at":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})");
}

bool enabled(level at) { return logger().should_log(to_spdlog(at)); }

void write(level at, std::string_view room, std::string_view line) {
  if (as_json) {
    std::string members = "\"room\":";
    append_json_string(members, room);
    members += ",\"text\":";
    append_json_string(members, line);
    logger().log(to_spdlog(at), "{}", members);
  } else {
    logger().log(to_spdlog(at), "{:<9} {}", room, line);
  }
}

}  // namespace postbus::log
