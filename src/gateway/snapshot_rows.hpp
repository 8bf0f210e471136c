#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/hub.hpp"
#include "feeds/spool.hpp"

namespace postbus::gateway {

/**
 * The first part of a subscription that begins with a table's rows: `row` events as the socket takes them, then what the rows
 * did not see yet, then `live`. None of it but `live` has an id, so that who leaves in the middle starts over.
 * Loop's thread.
 */
class snapshot_rows {
public:
  /** `wake` is called, on any thread, when there is more after `waiting`. */
  snapshot_rows(std::unique_ptr<feeds::spool_reader> from, std::function<void()> wake);

  enum class outcome { row, waiting, complete, failed };
  /** Gives one row to `put`, whose argument is valid during the call only. */
  outcome next(const std::function<void(const bus::event&)>& put);
  /** After `failed`. */
  const error& why() const { return why_; }

  /** Once complete: where the subscription must start in its feed's history. */
  const bus::position& from() const { return from_->join().from; }
  /** Turns a replay from there, portion by portion, into what comes behind the rows. False when history does not reach back: start over. */
  bool join(bus::replay& given);
  /** `live` has been given: what is left of the replay comes as it is. */
  bool joined() const { return joined_; }

private:
  std::unique_ptr<feeds::spool_reader> from_;
  std::shared_ptr<std::atomic<bool>> rung_ = std::make_shared<std::atomic<bool>>(true);  // false: nothing new since `waiting`
  std::function<void()> wake_;
  error why_;
  bool joined_{};
};

/** `reset` with the reason "snapshot" and no id: the snapshot cannot be completed, or was asked to go on from a position that is gone. */
bus::event_ref start_over(std::string_view channel, const bus::position& head);

}  // namespace postbus::gateway
