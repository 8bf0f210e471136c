#include "changes/flush_policy.hpp"

namespace postbus::changes {

bool flush_policy::arrived(steady::time_point now, steady::duration after, bool caught_up) {
  if (polling_ || !caught_up || after < timing_.late || now < ignore_until_) return false;
  polling_ = true;
  found_any_ = false;
  next_ = last_find_ = now;
  return true;
}

void flush_policy::polled(steady::time_point now, bool found) {
  next_ = now + timing_.every;
  if (found) {
    found_any_ = true;
    last_find_ = now;
  } else if (now >= last_find_ + timing_.quiet) {
    polling_ = false;
    if (!found_any_) ignore_until_ = now + timing_.distrust;
  }
}

}  // namespace postbus::changes
