#pragma once
#include <cstdint>
#include <deque>

#include "base/clock.hpp"

namespace postbus::changes {

/**
 * How far back the server must keep the WAL so that listeners can resume after a restart of the gateway. I/O-free.
 *
 * A permanent slot begins again at the position that was acknowledged last; so what is acknowledged lies behind what is
 * applied: by `age` of time, or by `bytes` of WAL where that is less. Kept as places in the WAL about every `age`/256.
 */
class resume_window {
public:
  struct bounds {
    steady::duration age{std::chrono::minutes{5}};
    std::uint64_t bytes{256u << 20};
  };
  explicit resume_window(bounds given) : bounds_{given} {}

  /** A stream begins: the server has everything after `lsn`. */
  void begin(steady::time_point now, std::uint64_t lsn);
  /** Everything up to `lsn` is applied. Never backwards. */
  void applied(steady::time_point now, std::uint64_t lsn);
  /**
   * What may be acknowledged at this moment; grows only. Nothing behind `bound`, which may lie within a commit's record, where
   * acknowledging would pass that commit over: so what is given is always a place at which something ended.
   */
  std::uint64_t acknowledge(steady::time_point now, std::uint64_t bound = UINT64_MAX);
  /** How long ago what is acknowledged was applied. */
  steady::duration age(steady::time_point now) const { return now - places_.front().at; }
  /** Gives the window up until now: the server is short of disk. */
  void release();

private:
  struct place {
    steady::time_point at;
    std::uint64_t lsn;
  };
  bounds bounds_;
  std::deque<place> places_;  // by time and by LSN; the first is acknowledged
  std::uint64_t applied_{};
};

}  // namespace postbus::changes
