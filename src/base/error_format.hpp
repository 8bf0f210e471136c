#pragma once
#include <fmt/format.h>

#include "base/result.hpp"

/** An error as the log has it: its text, and in parentheses the private detail where there is one. Never for a client. */
template <>
struct fmt::formatter<postbus::error> {
  constexpr auto parse(format_parse_context& context) const { return context.begin(); }
  auto format(const postbus::error& why, format_context& context) const {
    return why.detail.empty() ? fmt::format_to(context.out(), "{}", why.text)
                              : fmt::format_to(context.out(), "{} ({})", why.text, why.detail);
  }
};
