#pragma once
#include <chrono>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "bus/hub.hpp"

namespace postbus::gateway {

/** What a frame or `data:` carries: `?format=`. */
enum class wire_format { payload, event };

/**
 * A request target taken apart: decoded path segments and query parameters. All of it is valid UTF-8 without NUL. Segments
 * are split before decoding, so `%2F` in a channel name is part of the name.
 */
class target {
public:
  struct parameter {
    std::string name, value;
  };

  /** `raw` as `http_parser::target` gives it. errc::invalid_argument for a bad escape, text that is not UTF-8, too many parts. */
  static result<target> parse(std::string_view raw);

  /** "/v1/channels/a%2Fb" gives {"v1","channels","a/b"}; "/" gives none; "/a/" gives {"a",""}. */
  const std::vector<std::string>& segments() const { return segments_; }
  /** The path as sent, without the query. */
  std::string_view path() const { return path_; }

  /** The value of a parameter that may be given once; nullopt when it is absent. Given twice it is an error. */
  result<std::optional<std::string_view>> one(std::string_view name) const;
  /** As `one`, and an error when it is absent. */
  result<std::string_view> required(std::string_view name) const;
  /** Every value of a parameter, in order. */
  std::vector<std::string_view> all(std::string_view name) const;
  /** errc::invalid_argument that names the first parameter not among `known` (access_token always is): a misspelt one must not pass in silence. */
  result<> only(std::initializer_list<std::string_view> known) const;

  /** `500ms`, `30s`, `5m`, `1h`, or plain seconds (`30`, `2.5`); above `most` it is an error. */
  result<std::chrono::milliseconds> duration(std::string_view name, std::chrono::milliseconds absent, std::chrono::milliseconds most) const;
  /** `true`, `1`, or no value (`?loop`); `false`, `0`. */
  result<bool> flag(std::string_view name, bool absent = false) const;
  /** `after=` (or another name): a position, `beginning` or `now`. Absent: from_now. */
  result<bus::start> start(std::string_view name = "after") const;
  result<wire_format> format(wire_format absent) const;

private:
  std::string path_;
  std::vector<std::string> segments_;
  std::vector<parameter> parameters_;
};

/** Decodes %XX, and `+` as a blank when `form`. errc::invalid_argument for a bad escape. */
result<std::string> percent_decode(std::string_view text, bool form);

/** The text forms of `target::duration`. */
result<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace postbus::gateway
