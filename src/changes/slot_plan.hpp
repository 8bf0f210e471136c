#pragma once
#include <cstdint>
#include <string>

namespace postbus::changes {

/** Which slot a reader is to use. automatic: a permanent one where the server bounds the WAL that a slot may keep. */
enum class slot_choice : std::uint8_t { automatic, permanent, temporary };

/** What the server says of the slot that a permanent reader of this database uses; see sql/statements/changes/slot_facts.sql. */
struct slot_facts {
  std::string name;
  bool bounded{};    ///< max_slot_wal_keep_size is set
  bool published{};  ///< the publication is there
  std::uint32_t publication{};           ///< the one that is there
  std::uint32_t recorded_publication{};  ///< the one that was there before the slot was made
  bool recorded{};   ///< the schema says that the slot was made once
  bool exists{};
  bool usable{};     ///< logical, pgoutput, of this database, not temporary
  bool lost{};       ///< the server has invalidated it, or can keep its WAL no longer
  int active_pid{};  ///< who reads it; 0: nobody
  std::uint64_t confirmed_lsn{};
  std::uint64_t epoch_from{};  ///< what was committed before has no position of the epoch
};

/** What a reader knows by itself. */
struct slot_past {
  slot_choice wanted{slot_choice::automatic};
  bool poisoned{};   ///< its history cannot be decoded: the publication was dropped
  bool given_up{};   ///< it costs the server too much
  bool waited{};     ///< for its reader to leave, long enough
};

/** What to do next. I/O-free. */
struct slot_plan {
  enum class step : std::uint8_t {
    go_on,        ///< read it from where it was acknowledged
    make,         ///< the first one
    make_anew,    ///< what the last one had is lost: positions begin anew; drop what is there first
    wait,         ///< somebody reads it, or makes it
    copy,         ///< somebody reads it: read a temporary copy of it
    temporary,    ///< read a temporary one
    mend,         ///< the publication is missing: make it, and what had been read by it anew
  };
  step next{step::temporary};
  std::string why;  ///< for people; why it is not `go_on`, where that is not plain
};
slot_plan plan_slot(const slot_facts& facts, const slot_past& past);

}  // namespace postbus::changes
