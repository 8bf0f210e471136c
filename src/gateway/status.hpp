#pragma once
#include <functional>
#include <string>

namespace postbus::gateway {

class loop;
struct flow;

/** What the process has counted so far. Any thread. */
flow counted_flow();

/** Gathers /v1/status over all loops and calls `done` on `home` with its JSON. */
void gather_status(loop& home, std::function<void(std::string)> done);

}  // namespace postbus::gateway
