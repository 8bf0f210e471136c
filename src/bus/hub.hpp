#pragma once
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bus/event.hpp"
#include "bus/position.hpp"

namespace postbus::bus {

class topic;
class shard;

/** Whom a gap concerns: all channels, or those that plain NOTIFY reaches. */
enum class channels : std::uint8_t { all, plain };

/** Whether a batch ends the last transaction in it, or more pieces of that are to come in later ones. */
enum class part : std::uint8_t { whole, piece };

/** What was published for one shard and not yet delivered there. */
struct inbox {
  struct entry {
    topic* to;  ///< nullptr: every topic that `among` covers (a gap or a reset)
    const event* item;
    std::uint32_t owner;  ///< index into owners
    bus::channels among{};
  };
  std::vector<entry> entries;
  std::vector<std::shared_ptr<const batch>> owners;
  std::size_t bytes{};
  void clear();
};

struct hub_limits {
  std::size_t history_bytes = 64u << 20;  ///< events kept in memory for listeners that resume
  std::size_t inbox_bytes = 64u << 20;    ///< published and not yet taken by one shard; beyond it `publish` says so
};

/** Where a listener starts. */
struct from_now {};
struct from_beginning {};  ///< the oldest event still in memory
using start = std::variant<from_now, from_beginning, position>;
/** "now", "beginning" or a position; an empty text is "now". */
result<start> parse_start(std::string_view text);

/** How far a listener has come that is given a replay in portions: where it starts, and the last event that it was given. */
struct progress {
  progress() = default;
  template <std::convertible_to<start> Start>
  progress(Start&& asked) : from{std::forward<Start>(asked)} {}  // NOLINT: where it starts is where it is
  start from{from_now{}};
  position at{};        ///< of that event
  std::uint64_t seq{};  ///< its number; 0: none yet, and `from` says all
};

/** How much of a replay may come at once; at least one event does. */
struct portion {
  std::size_t events{SIZE_MAX};
  std::size_t bytes{SIZE_MAX};  ///< about what they take on the wire
};

/** About what an event takes on the wire beside its payload. */
inline constexpr std::size_t event_overhead = 160;

/** What a new subscription is given: all of it comes before anything its shard delivers later. */
struct replay {
  position at;                     ///< where the subscription stands behind all of this: nothing after it is missed
  progress next;                      ///< where to go on from
  position before{};               ///< resuming after it gives `events` once more
  std::vector<event_ref> events{}; ///< kept events after the asked place, gaps and resets among them, in order
  bool complete{true};             ///< history reaches back to the asked place
  bool whole{true};                ///< and no gap of all channels lies since then: a notification that was lost is in no table either
  bool end{true};                  ///< there is no more: the subscription is made. False: nothing is done, ask again from `next`
  /** What a listener is told first: whoever breaks off there, before any event has come, resumes after it and misses nothing. */
  const position& opening() const { return events.empty() ? at : before; }
};

/**
 * The in-process fan-out that everything goes through.
 *
 * The life of an event here: a source fills a batch and publishes it → the hub gives each event its seq, links it into
 * its channel's chain and keeps the batch as history → for each shard with a subscriber of the channel, the event goes
 * into that shard's inbox → the shard's thread takes the inbox and hands each event to its topic, which encodes it once
 * per wire form and marks its subscribers → at the end of the loop turn each of them is written to once.
 *
 * A batch may carry derived events beside its own (batch::derive): they go to the subscribers of their own channel right
 * behind their base event and are forgotten then. A subscription to such a channel resumes from the base event's channel,
 * its history; the subscriber derives again what that gives.
 *
 * Invariants: (1) seq grows by one per event and events reach every shard in seq order; (2) positions never decrease
 * within an epoch; (3) subscribing and taking what the shard had pending is one step under the lock, so a subscriber
 * gets every event exactly once; (4) when history does not reach back to the asked position, the replay begins with a
 * gap, or with a reset when the epoch is another: loss is never silent.
 *
 * Not guaranteed: history across a restart of the process (that is the WAL slot's business).
 *
 * Thread safety: every member may be called from any thread; one mutex guards all of it and is held for a whole batch.
 */
class hub {
public:
  explicit hub(hub_limits limits = {});
  ~hub();

  // For sources.

  /**
   * Begins at `at` with an empty history (a fresh process), before anything is published. What is published up to
   * `before_us`, an LSN, came before this process; where there may be such, nobody listens until serve().
   */
  void begin(position at, std::uint64_t before_us = 0);
  void serve();
  /** It was committed before this process began: another one may have handed it out. */
  bool came_before_us(const position& at) const;
  /** Listeners may subscribe: it has begun, and has caught up with what came before. */
  bool serving() const;
  /**
   * Publishes in order. An event whose position is {} (plain NOTIFY, local messages) gets the last LSN with the next
   * index from position::first_notify_index on; while a transaction is published in pieces it waits for the end of that. All
   * events of a batch have positions, or none. False when some shard's inbox is over its bound: the batch was taken, and the
   * source must stop reading until `has_room`.
   */
  bool publish(std::shared_ptr<batch> events, part of_last = part::whole);
  bool has_room() const;
  /** Nothing at or before `at` is still to come: a commit without events of ours, or a keep-alive. */
  void advance(position at);
  /** Tells every listener of `among`, now and on resume from before `to`, that events in (from, to] may be missing. */
  void announce_gap(position from, position to, std::string_view reason, bus::channels among = bus::channels::all);
  /** A new epoch: history is dropped and every listener is told to start over. */
  void announce_reset(position at, std::string_view reason);
  /** The position up to which everything has been published. */
  position head() const;
  /** history() after this position or a later one is whole. */
  position whole_since() const;

  void attach(shard& s);
  void detach(shard& s);

  /** Kept events of `channel` after `from`, without subscribing. */
  replay history(std::string_view channel, const progress& from, portion most = {}) const;
  /** One of several channels that are replayed together. */
  struct lane {
    std::string_view channel;
    progress from;
  };
  /** The same of several channels in one order, at most `most` of each; all go on from the number of `next`. */
  replay history(std::span<const lane> lanes, portion most) const;

  struct channel_summary {
    std::string name;
    std::size_t shards{};
    std::uint64_t events{};  ///< published since the hub knows the channel
    position last;
  };
  /** Channels in memory, at most `most`: those somebody listens on first, and of these the busiest. */
  std::vector<channel_summary> summary(std::size_t most) const;

private:
  friend class shard;
  struct state;
  // For shards, on the shard's own thread. Subscribing empties the inbox in the same step, so that what comes later is new.
  // Where the portion is not the end of the history nothing is done.
  replay subscribe(shard& s, topic& t, std::string_view history, const progress& from, portion most, inbox& taken);
  void take(shard& s, inbox& taken);
  void unsubscribe(shard& s, std::string_view channel);

  std::unique_ptr<state> state_;
};

}  // namespace postbus::bus
