#include "changes/slot_plan.hpp"

#include <fmt/format.h>

namespace postbus::changes {

slot_plan plan_slot(const slot_facts& facts, const slot_past& past) {
  using enum slot_plan::step;
  if (!facts.published) return {mend, "the publication postbus is missing: it is made again, and what was committed meanwhile is lost"};
  if (past.wanted == slot_choice::temporary) return {temporary, {}};
  if (past.wanted == slot_choice::automatic && !facts.bounded)
    return {temporary,
            "max_slot_wal_keep_size is not set, and a permanent slot of a gateway that is down would fill the server's disk; listeners "
            "cannot resume across "
            "a restart until: alter system set max_slot_wal_keep_size = '4GB'; select pg_reload_conf();"};
  if (!facts.exists) {
    if (facts.recorded)
      return {make_anew, fmt::format("the replication slot {} is gone, and with it what was committed meanwhile", facts.name)};
    return {make, {}};
  }
  if (!facts.usable)
    return {temporary,
            fmt::format("there is a slot {} that is not Postbus's: select pg_drop_replication_slot('{}')", facts.name, facts.name)};
  if (facts.active_pid != 0) {
    // One that is being made cannot be copied: it has no place yet.
    if (!past.waited || facts.confirmed_lsn == 0)
      return {wait, fmt::format("the slot {} is still read by pid {} of the server", facts.name, facts.active_pid)};
    return {copy,
            fmt::format("the slot {} is read by another gateway (pid {} of the server): this one reads a copy, and takes the slot over "
                        "when it is free",
                        facts.name, facts.active_pid)};
  }
  if (facts.lost)
    return {make_anew,
            fmt::format("the server has invalidated the slot {}: it kept more WAL than max_slot_wal_keep_size allows", facts.name)};
  if (past.poisoned || facts.publication != facts.recorded_publication)
    return {make_anew, "the publication postbus was dropped: what was committed before it was made again cannot be read"};
  if (past.given_up)
    return {make_anew, fmt::format("the slot {} was given up: it kept the server from removing WAL or dead rows", facts.name)};
  return {go_on, {}};
}

}  // namespace postbus::changes
