#pragma once
#include <cstddef>
#include <cstdint>

namespace postbus {

/** How many steps ahead of its use memory is asked for, where many objects are touched one after the other. */
inline constexpr std::size_t prefetch_distance = 8;

/** Tells the processor that the `bytes` at `p` will be read soon. A hint: `p` need not point to anything. */
inline void prefetch(const void* p, std::size_t bytes = 1) {
  constexpr std::uintptr_t line = 64;
  // Numbers, because p may be null or past its object, where pointer arithmetic is undefined.
  const auto first = reinterpret_cast<std::uintptr_t>(p);
  for (auto at = first & ~(line - 1); at < first + bytes; at += line)
    __builtin_prefetch(reinterpret_cast<const void*>(at));  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace postbus
