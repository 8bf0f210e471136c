#include "client/problem.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace postbus::remote {
namespace {

constexpr std::array codes{
#define ERROR(code, http, close, retry, meaning) errc::code,
#include "base/errors.def"
#undef ERROR
};

errc code_of_status(int status) {
  for (const auto code : codes)
    if (traits(code).http_status == status) return code;
  if (status >= 500) return errc::unavailable;
  return errc::protocol;
}

}  // namespace

errc parse_errc(std::string_view name) {
  for (const auto code : codes)
    if (traits(code).name == name) return code;
  return errc::internal;
}

error to_error(const boost::json::object& problem, int status) {
  const auto text = [&](std::string_view key) -> std::string {
    const auto* value = problem.if_contains(boost::core::string_view{key.data(), key.size()});
    return value && value->is_string() ? std::string{value->get_string()} : std::string{};
  };
  if (const auto* given = problem.if_contains("status"); given && given->is_int64()) status = static_cast<int>(given->get_int64());
  const auto name = text("code");
  error out{name.empty() ? code_of_status(status) : parse_errc(name), text("detail")};
  if (out.text.empty()) out.text = text("title");
  if (out.text.empty()) out.text = fmt::format("the gateway answered with status {}", status);
  return out;
}

}  // namespace postbus::remote
