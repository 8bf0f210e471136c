#pragma once
#include <utility>

#include "base/clock.hpp"

namespace postbus::postgres {

/**
 * When a replication client speaks and when it gives a silent server up. I/O-free: time comes in as an argument.
 *
 * The server drops a client that says nothing for wal_sender_timeout, so feedback goes out at least every
 * `feedback_every`, and at once when the server asks. A server that is silent for `silence` is asked to answer; when
 * nothing at all comes within `answer_within` of the question the session is dead, although the socket may look open.
 *
 * A server that is shut down ("fast") stays until its replication clients have acknowledged all there is, and asks them again
 * as soon as they have answered; in no other state does it ask twice within wal_sender_timeout / 2. Who acknowledges late would
 * hold it up for ever, so a server that asks `insistent` times in a row, each within `at_once` of an answer, is left.
 */
class stream_pulse {
public:
  struct timing {
    steady::duration feedback_every{std::chrono::seconds{3}};
    steady::duration silence{std::chrono::seconds{2}};
    steady::duration answer_within{std::chrono::seconds{6}};
    steady::duration at_once{std::chrono::milliseconds{500}};
    int insistent{5};
  };
  enum class action { none, feedback, question, give_up, leave };

  stream_pulse(steady::time_point now, timing given) : timing_{given}, spoke_{now}, heard_{now} {}

  /** A frame came. */
  void heard(steady::time_point now) {
    heard_ = now;
    asked_ = false;
  }
  /** The server asked for feedback. `late`: we acknowledge less than we have. */
  void requested(steady::time_point now, bool late) {
    if (std::exchange(requested_, true)) return;  // not answered yet
    requests_ = late && now < spoke_ + timing_.at_once ? requests_ + 1 : 0;
  }
  /** What to do now; what it returns counts as done. Take what the socket holds first: give_up means nothing was there. */
  action due(steady::time_point now);
  /** When `due` has something to say, if nothing comes before. */
  steady::time_point next() const;

private:
  timing timing_;
  steady::time_point spoke_, heard_, asked_at_{};
  bool asked_{};
  bool requested_{};
  int requests_{};
};

}  // namespace postbus::postgres
