#pragma once
#include "base/result.hpp"
#include "postbus/client.hpp"

namespace postbus::remote {

/** The public exception for an expected failure. The library's own parts return results; this is where they become exceptions. */
[[noreturn]] void raise(const error& why);
/** The same for an argument the caller could have known to be wrong. */
[[noreturn]] void raise_invalid(const error& why);

}  // namespace postbus::remote
