#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace postbus::postgres {

/** The lines of a server's messages that say why it ended. */
std::string causes(std::string_view output);

/** An error of a server program that ended: `what` happened, why by what it wrote, and the fix. Its messages are kept in `folder`. */
error explain(std::string what, const std::filesystem::path& folder, std::string_view output, std::uint16_t port);

/** Appends to postgres.log; one older part is kept. */
class message_log {
public:
  explicit message_log(std::filesystem::path path) : path_{std::move(path)} {}
  void append(std::string_view bytes);

private:
  std::filesystem::path path_;
};

}  // namespace postbus::postgres
