#pragma once
#include <memory>

#include "bus/event.hpp"

namespace postbus::streams {

/** A piece of what a stream keeps. */
struct page {
  std::shared_ptr<const bus::batch> events;  ///< in order; a gap among them where messages are no longer kept
  bus::position upto;                        ///< the next page begins after it; nothing at or before it is missing
  bool end{};                                ///< nothing more was written down when it was read
};

}  // namespace postbus::streams
