#include "postgres/stream_pulse.hpp"

#include <algorithm>

namespace postbus::postgres {

stream_pulse::action stream_pulse::due(steady::time_point now) {
  if (asked_ && now >= asked_at_ + timing_.answer_within) return action::give_up;
  if (requests_ >= timing_.insistent) return action::leave;
  if (!asked_ && now >= heard_ + timing_.silence) {
    asked_ = true;
    requested_ = false;
    asked_at_ = spoke_ = now;
    return action::question;
  }
  if (requested_ || now >= spoke_ + timing_.feedback_every) {
    requested_ = false;
    spoke_ = now;
    return action::feedback;
  }
  return action::none;
}

steady::time_point stream_pulse::next() const {
  if (requested_) return spoke_;
  const auto quiet = asked_ ? asked_at_ + timing_.answer_within : heard_ + timing_.silence;
  return std::min(quiet, spoke_ + timing_.feedback_every);
}

}  // namespace postbus::postgres
