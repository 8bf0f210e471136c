#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bus/event.hpp"
#include "feeds/predicate.hpp"
#include "feeds/row_change.hpp"

namespace postbus::feeds {

/** What a subscriber asks of a table's feed. */
struct view_request {
  std::string where;                                 ///< a filter; empty: every row
  std::optional<std::vector<std::string>> columns{};  ///< nullopt: all that the feed shows
  bool maybe{};  ///< serve also what cannot be known for sure, and say so in the payload
  bool asks_anything() const { return !where.empty() || columns.has_value(); }
};

/** Which columns a view's events carry, for one table description. Shared by the views that chose the same. */
struct view_columns {
  column_set rows;     ///< of a row that matches
  column_set deletes;  ///< of a row that is gone: also what it was known by
  column_set keys;     ///< of a row that is out of sight
  bool whole{};        ///< all that the feed shows: its payloads can be passed on
  bool operator==(const view_columns&) const = default;
};

/** A view seen by one table description: how its rows are judged. */
struct view_plan {
  std::shared_ptr<const view_columns> columns;
  bool exact{};  ///< nothing uncertain is shown: the replica identity carries the filter's columns, or the view ends where it cannot tell
  std::vector<std::uint16_t> places;  ///< of the filter's columns
};

/**
 * A table, a filter and some columns: what a filtered feed shows. Equal ones are one, known by their channel, which is the
 * feed's with the view's canonical text behind it. Immutable but for its end; any thread.
 */
class view {
public:
  struct parts {
    std::string feed;  ///< the table's channel
    std::optional<predicate> filter{};
    std::optional<std::vector<std::string>> columns{};
    bool maybe{};
    std::string fix{};  ///< SQL that would make it exact, where it is not
  };
  explicit view(parts given);
  view(const view&) = delete;
  virtual ~view() = default;

  std::string_view channel() const { return channel_; }
  /** The channel of the table's feed, which is also the view's history. */
  std::string_view feed() const { return bus::public_name(channel_); }
  const predicate* filter() const { return filter_ ? &*filter_ : nullptr; }
  /** The columns that were asked for, each once; nullopt: all that the feed shows. */
  const std::optional<std::vector<std::string>>& columns() const { return columns_; }

  /**
   * errc::table_changed: this description is of another time than the binding, subscribe anew. errc::conflict: the table cannot
   * give this view (any more); the text says why and what to do.
   */
  result<view_plan> fit(const table_description& t) const;

  /** Nothing more will come; `why` says whether coming back helps. Set before the channel's `ended` event is published. */
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  /** Meaningful once ended(). */
  const error& why() const { return why_; }
  void end(error why);

private:
  std::string channel_;
  std::optional<predicate> filter_;
  std::optional<std::vector<std::string>> columns_;
  bool maybe_;
  std::string fix_;
  error why_;
  std::atomic<bool> ended_{};
};

/** How one event of a table's feed looks through a view. */
struct sight {
  enum class what : std::uint8_t { nothing, event, unknown } is{what::nothing};  ///< unknown: it cannot be judged
  bus::kind kind{};
  bool maybe{};
};

/**
 * One event of a table's feed while views look at it. Its rows are taken apart once, and a payload that several views show
 * is written once. Reused from event to event; one thread.
 */
class looked_at {
public:
  /** `e` must carry a change; it and its batch must stay. */
  void take(const bus::event& e, const row_change& change);
  sight through(const view& v, const view_plan& plan);
  /** The same where it is known already whether the row before and the row after it match. */
  sight judged(truth old, truth now, bool exact) const;
  /** The payload of a sight; written to `memory` where it is not the event's own. */
  std::string_view payload(const sight& seen, const view_columns& columns, bus::batch& memory);
  /** False of a change that concerns every row, or none. */
  bool has_rows() const { return change_.row.count != 0 || change_.old.count != 0; }
  /** All that the change can mean for a condition on this column is known. */
  bool tells(std::size_t column, comparable kind);
  row_values& before() { return before_; }
  row_values& after() { return after_; }
  const row_change& change() const { return change_; }

private:
  bool has_before() const { return change_.kind == bus::kind::update || change_.kind == bus::kind::delete_; }
  bool has_after() const { return change_.kind == bus::kind::update || change_.kind == bus::kind::insert; }
  void write(const sight& seen, const view_columns& columns);
  const bus::event* event_{};
  row_change change_;
  row_values before_, after_;
  std::string json_, left_out_;
  struct made {
    sight seen;
    const view_columns* columns;
    std::string_view payload;
  };
  std::vector<made> made_;
};

/** A filter whose columns the replica identity does not carry; `fix`: the SQL that mends it. */
error inexact(std::string_view feed, std::string_view fix);

/**
 * What a replay of the feed's events shows through `v`: gaps and resets as they are, in order. Where events cannot be judged,
 * because the table was another then, there is a gap with the reason "schema".
 */
std::vector<bus::event_ref> replay_through(const view& v, const std::vector<bus::event_ref>& given);

}  // namespace postbus::feeds
