#pragma once
#include <functional>
#include <string>

namespace postbus::gateway {

class loop;

/** Gathers /v1/status over all loops and calls `done` on `home` with its JSON. */
void gather_status(loop& home, std::function<void(std::string)> done);

}  // namespace postbus::gateway
