#include "feeds/view_registry.hpp"

#include <boost/asio/post.hpp>
#include <boost/unordered/unordered_flat_set.hpp>

#include <algorithm>

#include "base/metrics.hpp"

namespace postbus::feeds {
namespace {

namespace asio = boost::asio;

constexpr std::size_t shared_column_sets = 16;

}  // namespace

/** A view's place in one list: of those with one value in an indexed column, or of those that are asked one by one. */
struct view_registry::link {
  live* owner{};
  link* next{};
  link** previous{};  ///< what points to this link

  void enter(link*& list) {
    next = list;
    previous = &list;
    if (next != nullptr) next->previous = &next;
    list = this;
  }
};

struct view_registry::live : view {
  using view::view;
  std::weak_ptr<live> self;
  table_views* table{};
  view_plan plan;
  bool fits{};                 ///< the plan is for the table as it is described now
  std::vector<link> links;     ///< one per key of its lookup, or one among the scanned; sized once, links do not move
  std::size_t index{SIZE_MAX};  ///< of the column it is found by, in table_views::indexes
  std::uint64_t seen{};        ///< stamp of the last event it was asked about
};

struct view_registry::table_views {
  struct index {
    std::uint16_t column;
    comparable kind;
    boost::unordered_flat_map<std::string, std::unique_ptr<link*>, string_hash, std::equal_to<>> by_key;  // lists; their heads do not move
  };
  std::shared_ptr<const table_description> table;  ///< the views are fitted to it; null: no change came yet
  boost::unordered_flat_set<live*> all;
  std::vector<index> indexes;
  link* scanned{};
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
  for (auto& l : gone.links) {
    if (l.previous == nullptr) continue;
    *l.previous = l.next;
    if (l.next != nullptr) l.next->previous = l.previous;
    l.previous = nullptr;
  }
  if (gone.index != SIZE_MAX)
    for (const auto& key : gone.filter()->find_lookup()->keys)
      if (const auto list = in.indexes[gone.index].by_key.find(key);
          list != in.indexes[gone.index].by_key.end() && *list->second == nullptr)
        in.indexes[gone.index].by_key.erase(list);
  gone.index = SIZE_MAX;
  gone.table = nullptr;
  in.all.erase(&gone);
  if (in.all.empty()) by_feed_.erase(by_feed_.find(gone.feed()));
}

void view_registry::enter_scanned(table_views& in, live& one) {
  one.links.resize(1);
  one.links.front().owner = &one;
  one.links.front().enter(in.scanned);
}

/** Fits a view to the table, where that is known, and enters it where changes will find it. */
result<> view_registry::place(table_views& in, live& one) {
  one.links.clear();
  one.index = SIZE_MAX;
  one.fits = false;
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
  one.links.resize(lookup->keys.size());
  for (auto& l : one.links) l.owner = &one;
  const auto column = one.plan.places[lookup->column];
  auto index = std::ranges::find(in.indexes, column, &table_views::index::column);
  if (index == in.indexes.end()) {
    in.indexes.push_back({.column = column, .kind = one.filter()->columns()[lookup->column].kind, .by_key = {}});
    index = std::prev(in.indexes.end());
  }
  one.index = static_cast<std::size_t>(index - in.indexes.begin());
  for (std::size_t i = 0; i < one.links.size(); ++i) {
    auto& list = index->by_key[lookup->keys[i]];
    if (!list) list = std::make_unique<link*>(nullptr);
    one.links[i].enter(*list);
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

void view_registry::look(live& one, std::size_t base, bus::batch& events) {
  if (one.seen == stamp_) return;
  one.seen = stamp_;
  const auto seen = one.fits ? looked_.through(one, one.plan) : sight{.is = sight::what::unknown};
  if (seen.is == sight::what::event)
    events.derive(base, one.channel(), seen.kind, looked_.payload(seen, *one.plan.columns, events.derived()));
  else if (seen.is == sight::what::unknown)
    ending_.emplace_back(
        &one, error{errc::table_changed, "the database did not send what the filter needs; subscribe again, after the last position"});
}

void view_registry::end(live& one, error why, std::size_t base, bus::batch& events) {
  one.end(std::move(why));
  events.derive(base, one.channel(), bus::kind::ended, {});
  remove(one);
}

void view_registry::derive(bus::batch& events) {
  if (by_channel_.empty()) return;
  const table_description* last = nullptr;
  table_views* in = nullptr;
  for (std::size_t base = 0; base < events.events().size(); ++base) {
    const auto& e = *events.events()[base];
    if (e.origin.empty()) continue;
    const auto change = change_of(e);
    if (change.table == nullptr) continue;
    if (change.table != last) {
      last = change.table;
      const auto found = by_feed_.find(last->channel);
      in = found == by_feed_.end() ? nullptr : found->second.get();
    }
    if (in == nullptr) continue;
    if (in->table.get() != change.table) {
      refit(*in, change.table->shared_from_this(), base, events);
      const auto left = by_feed_.find(change.table->channel);
      if ((in = left == by_feed_.end() ? nullptr : left->second.get()) == nullptr) continue;
    }
    looked_.take(e, change);
    ++stamp_;
    if (change.row.count == 0 && change.old.count == 0) {
      for (auto* const one : in->all) look(*one, base, events);
    } else {
      for (auto& index : in->indexes)
        for (auto* const row : {&looked_.before(), &looked_.after()})
          if (const auto* const key = row->key(index.column, index.kind))
            if (const auto list = index.by_key.find(*key); list != index.by_key.end())
              for (auto* l = *list->second; l != nullptr; l = l->next) look(*l->owner, base, events);
      for (auto* l = in->scanned; l != nullptr; l = l->next) look(*l->owner, base, events);
    }
    if (ending_.empty()) continue;
    for (auto& [one, why] : std::exchange(ending_, {})) end(*one, std::move(why), base, events);
    last = nullptr;  // the table may have lost its last view
  }
}

}  // namespace postbus::feeds
