// How a change looks through a view, where "matches" means that the filter is true in SQL's sense:
//
//   INSERT   matches → insert
//   UPDATE   old and new match → update; only new → enter; only old → leave
//   DELETE   matched → delete; else nothing, so that no key of a hidden row is told
//   TRUNCATE → truncate
//
// An old value is known where an old tuple has one; of a column that the replica identity carries also where it is NULL, and
// where there is no old tuple: then the update did not touch it. A view is exact when the identity carries all of its filter's
// columns. Another is served on demand only (`maybe`): a match whose past is not known is an `enter`, anything else a `leave` or
// `delete` of the key alone, each with "maybe": true. Nothing is ever guessed without saying so.
//
// Of a partitioned table each partition has an identity of its own, which may change while views look: they go on as long as
// the rows that come tell all that the filter needs, and end at the first that does not.
#include "feeds/view.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "postgres/connection.hpp"

namespace postbus::feeds {
namespace {

namespace pgoutput = postgres::pgoutput;
using kind = bus::kind;

constexpr char separator = '\x1f';

/** Fills in what is known of the row before and after a change. */
void read_rows(const row_change& c, row_values& before, row_values& after) {
  const auto& t = *c.table;
  const auto count = t.columns.size();
  before.reset(count);
  after.reset(count);
  auto values = c.old.values();
  for (std::size_t i = 0; i < count; ++i) {
    const auto v = values.next();
    if (!v) break;
    if (is_told(t, i, *v)) before.set(i, *v);
  }
  if (c.kind == kind::delete_) return;
  values = c.row.values();
  for (std::size_t i = 0; i < count; ++i) {
    const auto v = values.next();
    if (!v) break;
    after.set(i, *v);
  }
  if (c.kind == kind::insert) return;
  for (std::size_t i = 0; i < count; ++i) {
    // A TOASTed value that was not touched is the old one; without an old tuple what the identity carries was not touched.
    if (after.get(i).kind == pgoutput::value_kind::unchanged) after.set(i, before.get(i));
    if (c.old_kind == pgoutput::old_row::none && t.carried[i]) before.set(i, after.get(i));
  }
}

std::string list(const std::vector<std::string>& names) {
  std::string all;
  for (const auto& n : names) all += postgres::quote_identifier(n);
  return all;
}

}  // namespace

view::view(parts given)
    : channel_{std::move(given.feed)},
      filter_{std::move(given.filter)},
      columns_{std::move(given.columns)},
      maybe_{given.maybe},
      fix_{std::move(given.fix)} {
  channel_ += separator;
  if (filter_) channel_ += filter_->sql();
  if (columns_) (channel_ += separator) += list(*columns_);
  if (maybe_) (channel_ += separator) += separator;
}

error inexact(std::string_view feed, std::string_view fix) {
  std::string text =
      fmt::format("the replica identity of {} does not carry all columns of the filter, so that nobody can tell when a row stops matching",
                  feed.substr(feed.find(':') + 1));
  if (!fix.empty()) text += fmt::format("; to make it exact: {}", fix);
  return {errc::conflict, text + "; or subscribe with maybe=true and be told what is not sure"};
}

void view::end(error why) {
  why_ = std::move(why);
  ended_.store(true, std::memory_order_release);
}

result<view_plan> view::fit(const table_description& t) const {
  view_plan plan{.columns = nullptr, .exact = true, .places = {}};
  const auto gone = [&](std::string_view name) {
    return error{errc::conflict, fmt::format("the feed of {}.{} has no column {} (any more)", t.schema, t.name, name)};
  };
  if (filter_)
    for (const auto& c : filter_->columns()) {
      const auto at = t.find(c.name);
      if (at == t.columns.size() || !t.shown[at]) return gone(c.name);
      if (t.columns[at].type_oid != c.type)
        return error{errc::table_changed, fmt::format("the type of {} has changed: subscribe again, after the last position", c.name)};
      plan.places.push_back(static_cast<std::uint16_t>(at));
      plan.exact = plan.exact && t.carried[at];
    }
  if (!plan.exact && !maybe_ && !t.partitioned) return inexact(feed(), fix_);
  plan.exact = plan.exact || !maybe_;
  view_columns chosen{.rows = t.shown, .deletes = t.shown, .keys = both(t.shown, t.key), .whole = !columns_};
  if (columns_) {
    chosen.rows.assign(t.columns.size(), false);
    for (const auto& name : *columns_) {
      const auto at = t.find(name);
      if (at == t.columns.size() || !t.shown[at]) return gone(name);
      chosen.rows[at] = true;
    }
    chosen.deletes = chosen.rows;
    for (std::size_t i = 0; i < chosen.keys.size(); ++i) chosen.deletes[i] = chosen.deletes[i] || chosen.keys[i];
  }
  if (std::ranges::find(chosen.keys, true) == chosen.keys.end()) chosen.keys = chosen.deletes;  // a table without a key: the row itself
  plan.columns = std::make_shared<const view_columns>(std::move(chosen));
  return plan;
}

void looked_at::take(const bus::event& e, const row_change& change) {
  event_ = &e;
  change_ = change;
  change_.kind = e.kind;
  made_.clear();
  if (change_.kind == kind::insert || change_.kind == kind::update || change_.kind == kind::delete_) read_rows(change_, before_, after_);
}

sight looked_at::through(const view& v, const view_plan& plan) {
  const auto test = [&](row_values& row) { return v.filter() == nullptr ? truth::yes : v.filter()->test(row, plan.places); };
  return judged(has_before() ? test(before_) : truth::no, has_after() ? test(after_) : truth::no, plan.exact);
}

bool looked_at::tells(std::size_t column, comparable kind) {
  return (!has_before() || before_.without(column, kind) != truth::unknown) &&
         (!has_after() || after_.without(column, kind) != truth::unknown);
}

sight looked_at::judged(truth old, truth now, bool exact) const {
  using what = sight::what;
  const auto seen = [](kind k, bool maybe = false) { return sight{.is = what::event, .kind = k, .maybe = maybe}; };
  // Of a view that is to be exact nothing uncertain is shown.
  const auto uncertain = [&](kind k) { return exact ? sight{.is = what::unknown} : seen(k, true); };
  switch (change_.kind) {
    case kind::insert: return now == truth::yes ? seen(kind::insert) : sight{};
    case kind::delete_:
      if (old == truth::unknown) return uncertain(kind::delete_);
      return old == truth::yes ? seen(kind::delete_) : sight{};
    case kind::update:
      if (now == truth::unknown) return uncertain(kind::leave);
      if (old == truth::unknown) return uncertain(now == truth::yes ? kind::enter : kind::leave);
      if (now == truth::yes) return seen(old == truth::yes ? kind::update : kind::enter);
      return old == truth::yes ? seen(kind::leave) : sight{};
    default: return seen(change_.kind);
  }
}

std::string_view looked_at::payload(const sight& seen, const view_columns& columns, bus::batch& memory) {
  const bool as_it_is = (columns.whole && !seen.maybe && seen.kind != kind::enter && seen.kind != kind::leave) ||
                        seen.kind == kind::truncate || seen.kind == kind::schema;
  if (as_it_is) return event_->payload;
  for (const auto& m : made_)
    if (m.seen.kind == seen.kind && m.seen.maybe == seen.maybe && m.columns == &columns) return m.payload;
  write(seen, columns);
  char* const copy = memory.allocate(json_.size());
  std::ranges::copy(json_, copy);
  made_.push_back({seen, &columns, {copy, json_.size()}});
  return made_.back().payload;
}

void looked_at::write(const sight& seen, const view_columns& columns) {
  const auto& t = *change_.table;
  const auto* const old = change_.old_kind == pgoutput::old_row::none ? nullptr : &change_.old;
  json_ = t.head;
  left_out_.clear();
  switch (seen.kind) {
    case kind::insert:
    case kind::update:
    case kind::enter:
      json_ += seen.kind == kind::insert ? R"(INSERT","data":)" : R"(UPDATE","data":)";
      append_columns(json_, t, change_.row, old, columns.rows, &left_out_);
      if (seen.kind == kind::update && old != nullptr) {  // the row before an `enter` was hidden and stays so
        json_ += R"(,"old":)";
        append_old_columns(json_, t, *old, columns.rows);
      }
      break;
    case kind::leave:
      json_ += R"(UPDATE","data":)";
      if (old != nullptr)
        append_old_columns(json_, t, *old, columns.keys);
      else
        append_columns(json_, t, change_.row, nullptr, both(columns.keys, t.carried), nullptr);
      break;
    default:
      json_ += R"(DELETE","data":)";
      append_old_columns(json_, t, change_.old, seen.maybe ? columns.keys : columns.deletes);
      break;
  }
  if (!left_out_.empty()) ((json_ += R"(,"unchanged":[)") += left_out_) += ']';
  if (seen.maybe) json_ += R"(,"maybe":true)";
  json_ += R"(,"xid":)";
  char digits[20];
  json_.append(digits, std::to_chars(digits, digits + sizeof digits, event_->xid).ptr);
  json_ += '}';
}

std::vector<bus::event_ref> replay_through(const view& v, const std::vector<bus::event_ref>& given) {
  std::vector<bus::event_ref> out;
  boost::unordered_flat_map<const table_description*, result<view_plan>> plans;
  looked_at looked;
  const bus::event* first_unknown = nullptr;  // of a run
  const bus::event* last_unknown = nullptr;
  const auto add = [&](const bus::event& base, kind k, std::string_view payload, std::shared_ptr<bus::batch> alone) {
    auto& made = alone->add_owned(v.channel(), k, bus::payload_form::json, payload, base.at, base.time);
    made.seq = base.seq;
    made.xid = base.xid;
    out.push_back({std::move(alone), &made});
  };
  const auto tell_unknown = [&] {
    if (first_unknown == nullptr) return;
    const auto text = fmt::format(R"({{"from":"{}","to":"{}","reason":"schema"}})", bus::to_text(bus::just_before(first_unknown->at)),
                                  bus::to_text(last_unknown->at));
    auto alone = std::make_shared<bus::batch>();
    char* const copy = alone->allocate(text.size());
    std::ranges::copy(text, copy);
    add(*last_unknown, kind::gap, {copy, text.size()}, std::move(alone));
    first_unknown = nullptr;
  };
  for (const auto& e : given) {
    const auto change = change_of(*e);
    if (change.table == nullptr) {  // a gap, a reset
      tell_unknown();
      out.push_back(e);
      continue;
    }
    auto known = plans.find(change.table);
    if (known == plans.end()) known = plans.emplace(change.table, v.fit(*change.table)).first;
    looked.take(*e, change);
    const auto seen = known->second ? looked.through(v, *known->second) : sight{.is = sight::what::unknown};
    if (seen.is == sight::what::unknown) {
      if (first_unknown == nullptr) first_unknown = e.item;
      last_unknown = e.item;
    } else if (seen.is == sight::what::event) {
      tell_unknown();
      auto alone = std::make_shared<bus::batch>();
      alone->hold(e.owner);
      add(*e, seen.kind, looked.payload(seen, *known->second->columns, *alone), alone);
    }
  }
  tell_unknown();
  return out;
}

}  // namespace postbus::feeds
