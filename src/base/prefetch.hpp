#pragma once
#include <cstddef>
#include <cstdint>

namespace postbus {

/** How many steps ahead of its use memory is asked for, where many objects are touched one after the other. */
inline constexpr std::size_t prefetch_distance = 8;

/** Tells the processor that the `bytes` at `p` will be read soon. A hint: `p` need not point to anything. */
inline void prefetch(const void* p, std::size_t bytes = 1) {
  constexpr std::uintptr_t line = 64;
  const auto* const first = static_cast<const char*>(p);
  __builtin_prefetch(first);
  for (auto next = line - reinterpret_cast<std::uintptr_t>(p) % line; next < bytes; next += line) __builtin_prefetch(first + next);
}

}  // namespace postbus
