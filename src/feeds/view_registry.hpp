#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/prefetch.hpp"
#include "bus/event.hpp"
#include "feeds/key_index.hpp"
#include "feeds/view.hpp"

namespace postbus::feeds {

/**
 * The views that somebody is subscribed to, and the index by which a change finds those it concerns.
 *
 * A view whose filter demands that a column equals one of some values is found by that value: a change looks up its old and
 * its new value, once per column that is indexed at all, so its cost does not grow with the number of views. Views without
 * such a condition, and those that are not exact, are asked one by one. Several changes are taken at a time: of very many
 * views those that a change concerns are in no cache, and so the memory of all of them is waited for at once.
 *
 * Thread: the reader's executor. What `open` returns may be let go on any thread; the view leaves the registry then.
 */
class view_registry : public std::enable_shared_from_this<view_registry> {
public:
  view_registry();
  ~view_registry();

  /**
   * Registers a view, or finds its equal. From here on every batch is published with what this view shows of it. It was bound
   * to the table as the catalog shows it; where the stream has not come that far, a change before that point ends the view
   * (errc::table_changed), for it cannot be judged. `executor`: the reader's.
   */
  std::shared_ptr<const view> open(view::parts given, const boost::asio::any_io_executor& executor);
  /** Adds to a batch that is about to be published what the views show of its events. Ends the views that can no longer tell; false where one did. */
  bool derive(bus::batch& events);
  /** Views alive. */
  std::size_t size() const { return by_channel_.size(); }

private:
  struct string_hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return boost::hash<std::string_view>{}(text); }
  };
  struct live;
  struct link;
  struct column_index;
  struct table_views;
  struct looking {
    looked_at at;
    std::size_t base{};  ///< the event's number in its batch
  };
  struct expected {
    const key_index* where;
    std::size_t hash;
  };
  table_views* find(const table_description& t) const;
  void remove(live& gone);
  result<> place(table_views& in, live& one);
  void enter_scanned(table_views& in, live& one);
  void refit(table_views& in, std::shared_ptr<const table_description> t, std::size_t base, bus::batch& events);
  std::size_t take_some(std::size_t from, bus::batch& events);
  void expect(table_views& in, looked_at& at);
  void look(table_views& in, looking& l, bus::batch& events);
  void look_up(column_index& index, looking& l, bus::batch& events);
  void look(live& one, looking& l, const sight* known, bus::batch& events);
  void end(live& one, error why, std::size_t base, bus::batch& events);

  boost::unordered_flat_map<std::string_view, live*> by_channel_;  // keyed by the view's own channel
  boost::unordered_flat_map<std::string, std::unique_ptr<table_views>, string_hash, std::equal_to<>> by_feed_;
  std::array<looking, prefetch_distance> looked_;
  std::size_t taken_{};  ///< of looked_
  std::vector<expected> expected_;
  std::uint64_t stamp_{};
  bool all_told_{};  ///< so far in `derive`
  std::vector<std::pair<live*, error>> ending_;
};

}  // namespace postbus::feeds
