#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "postbus/version.hpp"

namespace postbus {

/** Thrown when a gateway or a database refuses, cannot be reached, or does not answer in time. what() says what to do. */
class request_error : public std::runtime_error {
public:
  request_error(std::string code, const std::string& text, bool may_retry)
      : std::runtime_error{text}, code_{std::move(code)}, may_retry_{may_retry} {}
  /** A name of docs/errors.md: "unauthorised", "invalid_channel", "timed_out", …. */
  std::string_view code() const& noexcept { return code_; }
  std::string_view code() const&& = delete;
  /** The same call may succeed later. */
  bool may_retry() const noexcept { return may_retry_; }

private:
  std::string code_;
  bool may_retry_;
};

}  // namespace postbus
