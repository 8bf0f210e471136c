#include "postgres/backoff.hpp"

#include <algorithm>

namespace postbus::postgres {

steady::duration backoff::next() {
  auto longest = timing_.first;
  for (unsigned i = 0; i < failures_ && longest < timing_.most; ++i) longest *= 2;
  longest = std::min(longest, timing_.most);
  ++failures_;
  std::uniform_int_distribution<steady::rep> draw{(longest / 2).count(), longest.count()};
  return steady::duration{draw(random_)};
}

}  // namespace postbus::postgres
