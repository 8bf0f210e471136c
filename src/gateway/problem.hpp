#pragma once
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::gateway {

inline constexpr std::string_view problem_media_type = "application/problem+json";

/**
 * Appends the problem document of an error (RFC 9457): {"type":"urn:postbus:error:not_watched","title":…,"status":404,
 * "detail":error.text,"code":"not_watched","retry":false}. error.detail never leaves the process this way.
 */
void append_problem(std::string& out, const error& why);

/** "Not Found" for 404, … for every status the gateway sends. */
std::string_view reason_phrase(int status);

}  // namespace postbus::gateway
