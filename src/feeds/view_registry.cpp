#include "feeds/view_registry.hpp"

#include <boost/asio/post.hpp>
#include <boost/container/small_vector.hpp>
#include <boost/unordered/unordered_flat_set.hpp>

#include <algorithm>
#include <span>

#include "base/metrics.hpp"

namespace postbus::feeds {
namespace {

namespace asio = boost::asio;

constexpr std::size_t shared_column_sets = 16;

}  // namespace

/** A view's place under one key of its lookup, or among those that are asked one by one. */
struct view_registry::link : keyed {
  live* owner{};
};

struct view_registry::live : view {
  explicit live(view::parts given) : view{std::move(given)}, to{channel()} {}
  std::weak_ptr<live> self;
  table_views* table{};
  std::size_t index{SIZE_MAX};  ///< of the column it is found by, in table_views::indexes
  // What an event that concerns the view reads stands together, from the first link on: of very many views it is in no cache.
  boost::container::small_vector<link, 1> links;  ///< one per key of its lookup, or one among the scanned; sized once, links do not move
  std::uint64_t seen{};                           ///< stamp of the last event it was asked about
  bool fits{};                                    ///< the plan is for the table as it is described now
  bool found_is_match{};                          ///< its lookup is its whole filter, of one key: found is matched
  bus::destination to;
  view_plan plan;
  static constexpr std::size_t read_bytes = sizeof(link) + sizeof seen + 2 * sizeof(bool) + sizeof to + sizeof plan.columns;
};

struct view_registry::column_index {
  std::uint16_t column;
  comparable kind;
  key_index views;
};

struct view_registry::table_views {
  std::shared_ptr<const table_description> table;  ///< the views are fitted to it; null: no change came yet
  boost::unordered_flat_set<live*> all;
  std::vector<column_index> indexes;
  keyed* scanned{};  ///< links
  std::vector<std::shared_ptr<const view_columns>> columns;  ///< chosen by several views
};

view_registry::view_registry() = default;
view_registry::~view_registry() = default;

std::shared_ptr<const view> view_registry::open(view::parts given, const asio::any_io_executor& executor) {
  auto made = std::make_unique<live>(std::move(given));
  if (const auto found = by_channel_.find(made->channel()); found != by_channel_.end()) {
    if (auto shared = found->second->self.lock()) return shared;
    remove(*found->second);  // let go, and on its way to be removed
  }

  auto& table = by_feed_[std::string{made->feed()}];
  if (!table) table = std::make_unique<table_views>();
  made->table = table.get();
  if (!place(*table, *made)) enter_scanned(*table, *made);
  table->all.insert(made.get());
  by_channel_.emplace(made->channel(), made.get());
  // The last who lets go may do so on any thread: the view leaves the registry on the reader's.
  const auto let_go = [registry = weak_from_this(), executor](live* last) {
    asio::post(executor, [registry, owned = std::unique_ptr<live>{last}] {
      if (const auto still = registry.lock()) still->remove(*owned);
    });
  };
  std::shared_ptr<live> shared{made.release(), let_go};
  shared->self = shared;
  metrics::set(metrics::gauge::views, static_cast<std::int64_t>(by_channel_.size()));
  return shared;
}

void view_registry::remove(live& gone) {
  if (const auto found = by_channel_.find(gone.channel()); found != by_channel_.end() && found->second == &gone) by_channel_.erase(found);
  metrics::set(metrics::gauge::views, static_cast<std::int64_t>(by_channel_.size()));
  if (gone.table == nullptr) return;
  auto& in = *gone.table;
  for (auto& l : gone.links)
    if (gone.index != SIZE_MAX) {
      in.indexes[gone.index].views.leave(l);
    } else {
      (l.previous != nullptr ? l.previous->next : in.scanned) = l.next;
      if (l.next != nullptr) l.next->previous = l.previous;
    }
  gone.links.clear();
  gone.index = SIZE_MAX;
  gone.table = nullptr;
  in.all.erase(&gone);
  if (in.all.empty()) by_feed_.erase(by_feed_.find(gone.feed()));
}

void view_registry::enter_scanned(table_views& in, live& one) {
  one.links.resize(1);
  auto& l = one.links.front();
  l.owner = &one;
  l.next = in.scanned;
  if (l.next != nullptr) l.next->previous = &l;
  in.scanned = &l;
}

/** Fits a view to the table, where that is known, and enters it where changes will find it. */
result<> view_registry::place(table_views& in, live& one) {
  one.links.clear();
  one.index = SIZE_MAX;
  one.fits = false;
  one.found_is_match = false;
  if (in.table == nullptr) return {};
  auto plan = one.fit(*in.table);
  if (!plan) return plan.error();
  one.plan = std::move(*plan);
  one.fits = true;
  if (const auto same = std::ranges::find_if(in.columns, [&](const auto& c) { return *c == *one.plan.columns; }); same != in.columns.end())
    one.plan.columns = *same;
  else if (in.columns.size() < shared_column_sets)
    in.columns.push_back(one.plan.columns);

  const auto lookup = one.filter() != nullptr && one.plan.exact ? one.filter()->find_lookup() : std::nullopt;
  if (!lookup) {
    enter_scanned(in, one);
    return {};
  }
  const auto column = one.plan.places[lookup->column];
  auto index = std::ranges::find(in.indexes, column, &column_index::column);
  if (index == in.indexes.end()) {
    in.indexes.push_back({.column = column, .kind = one.filter()->columns()[lookup->column].kind, .views = {}});
    index = std::prev(in.indexes.end());
  }
  one.index = static_cast<std::size_t>(index - in.indexes.begin());
  one.found_is_match = lookup->is_all;
  one.links.resize(lookup->keys.size());
  for (std::size_t i = 0; i < one.links.size(); ++i) {
    one.links[i].owner = &one;
    one.links[i].key = lookup->keys[i];
    index->views.enter(one.links[i]);
  }
  return {};
}

/** The stream describes the table anew: every view is fitted again, and ends where it does not fit. */
void view_registry::refit(table_views& in, std::shared_ptr<const table_description> t, std::size_t base, bus::batch& events) {
  in.table = std::move(t);
  in.indexes.clear();
  in.columns.clear();
  in.scanned = nullptr;
  for (auto* const one : in.all)
    if (auto placed = place(in, *one); !placed) {
      one->links.clear();
      ending_.emplace_back(one, placed.error());
    }
  for (auto& [one, why] : std::exchange(ending_, {})) end(*one, std::move(why), base, events);
}

/** `known`: how the event looks through views that were found by their whole filter. */
void view_registry::look(live& one, looking& l, const sight* known, bus::batch& events) {
  if (one.seen == stamp_) return;
  one.seen = stamp_;
  sight seen{.is = sight::what::unknown};
  if (one.fits) seen = known != nullptr && one.found_is_match ? *known : l.at.through(one, one.plan);
  if (seen.is == sight::what::event) events.derive(l.base, one.to, seen.kind, l.at.payload(seen, *one.plan.columns, events.derived()));
  if (seen.is != sight::what::unknown) return;
  all_told_ = false;
  ending_.emplace_back(
      &one, error{errc::table_changed, "the database did not send what the filter needs; subscribe again, after the last position"});
}

void view_registry::end(live& one, error why, std::size_t base, bus::batch& events) {
  one.end(std::move(why));
  events.derive(base, one.to, bus::kind::ended, {});
  remove(one);
}

view_registry::table_views* view_registry::find(const table_description& t) const {
  const auto found = by_feed_.find(t.channel);
  return found == by_feed_.end() ? nullptr : found->second.get();
}

bool view_registry::derive(bus::batch& events) {
  all_told_ = true;
  for (std::size_t next = 0; next < events.events().size() && !by_channel_.empty();) {
    next = take_some(next, events);
    const table_description* last = nullptr;
    table_views* in = nullptr;
    for (auto& l : std::span{looked_}.first(taken_)) {
      const auto& t = *l.at.change().table;
      if (&t != last) {
        last = &t;
        in = find(t);
        if (in != nullptr && in->table.get() != &t) {
          refit(*in, t.shared_from_this(), l.base, events);
          in = find(t);
        }
      }
      if (in != nullptr) look(*in, l, events);
      if (ending_.empty()) continue;
      for (auto& [one, why] : std::exchange(ending_, {})) end(*one, std::move(why), l.base, events);
      last = nullptr;  // the table may have lost its last view
    }
  }
  return all_told_;
}

/** Takes the next changes of tables that have views, and asks for the memory in which the views they concern will be found. */
std::size_t view_registry::take_some(std::size_t from, bus::batch& events) {
  const table_description* last = nullptr;
  table_views* in = nullptr;
  taken_ = 0;
  for (; from < events.events().size() && taken_ < looked_.size(); ++from) {
    const auto& e = *events.events()[from];
    if (e.origin.empty()) continue;
    const auto change = change_of(e);
    if (change.table == nullptr) continue;
    if (change.table != last) in = find(*(last = change.table));
    if (in == nullptr) continue;
    auto& l = looked_[taken_++];
    l.base = from;
    l.at.take(e, change);
    if (in->table.get() == last && l.at.has_rows()) expect(*in, l.at);
  }
  for (const auto& [where, hash] : expected_) where->expect_entry(hash, live::read_bytes);
  expected_.clear();
  return from;
}

void view_registry::expect(table_views& in, looked_at& at) {
  for (const auto& index : in.indexes) {
    const std::string* last = nullptr;
    for (auto* const row : {&at.before(), &at.after()})
      if (const auto* const key = row->key(index.column, index.kind); key != nullptr && (last == nullptr || *last != *key)) {
        expected_.push_back({&index.views, key_index::hash(*key)});
        index.views.expect(expected_.back().hash);
        last = key;
      }
  }
}

/** Asks the views that one change of their table may concern. */
void view_registry::look(table_views& in, looking& l, bus::batch& events) {
  ++stamp_;
  if (!l.at.has_rows()) {
    for (auto* const one : in.all) look(*one, l, nullptr, events);
    return;
  }
  for (std::size_t i = 0; i < in.indexes.size(); ++i)
    if (l.at.tells(in.indexes[i].column, in.indexes[i].kind)) {
      look_up(in.indexes[i], l, events);
    } else {  // no key says whom it concerns
      for (auto* const one : in.all)
        if (one->index == i) look(*one, l, nullptr, events);
    }
  for (auto* each = in.scanned; each != nullptr; each = each->next) look(*static_cast<link*>(each)->owner, l, nullptr, events);
}

/** Asks those that demand the value which the row has or had. */
void view_registry::look_up(column_index& index, looking& l, bus::batch& events) {
  auto &before = l.at.before(), &after = l.at.after();
  const auto* const old = before.key(index.column, index.kind);
  const auto* const now = after.key(index.column, index.kind);
  const auto ask = [&](const std::string& key, truth was, truth is) {
    const auto known = l.at.judged(was, is, true);  // only exact views are found by their keys
    for (auto* each = index.views.find(key_index::hash(key), key); each != nullptr; each = each->next)
      look(*static_cast<link*>(each)->owner, l, &known, events);
  };
  if (old != nullptr && now != nullptr && *old == *now) return ask(*old, truth::yes, truth::yes);
  if (old != nullptr) ask(*old, truth::yes, after.without(index.column, index.kind));
  if (now != nullptr) ask(*now, before.without(index.column, index.kind), truth::yes);
}

}  // namespace postbus::feeds
