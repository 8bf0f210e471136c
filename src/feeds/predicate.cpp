#include "feeds/predicate.hpp"

#include <algorithm>

namespace postbus::feeds {
namespace {

namespace pgoutput = postgres::pgoutput;
using op = filter_part::op;

truth negate(truth t) { return t == truth::yes ? truth::no : t == truth::no ? truth::yes : t; }
truth of(bool b) { return b ? truth::yes : truth::no; }

bool holds(comparison how, std::strong_ordering order) {
  switch (how) {
    case comparison::equal: return order == 0;
    case comparison::not_equal: return order != 0;
    case comparison::less: return order < 0;
    case comparison::less_equal: return order <= 0;
    case comparison::greater: return order > 0;
    case comparison::greater_equal: return order >= 0;
  }
  return false;
}

bool is_ordering(comparison how) { return how != comparison::equal && how != comparison::not_equal; }

}  // namespace

void row_values::reset(std::size_t columns) {
  values_.assign(columns, {pgoutput::value_kind::unchanged, {}});
  keys_.resize(columns);
  for (auto& k : keys_) k.is = made_key::state::unmade;
}

const std::string* row_values::key(std::size_t column, comparable kind) {
  auto& held = keys_[column];
  if (held.is == made_key::state::unmade) {
    const auto& v = values_[column];
    held.bytes.clear();
    const bool there = v.kind == pgoutput::value_kind::text && append_sort_key(held.bytes, kind, v.bytes);
    held.is = there ? made_key::state::made : made_key::state::none;
  }
  return held.is == made_key::state::made ? &held.bytes : nullptr;
}

truth row_values::without(std::size_t column, comparable kind) {
  if (values_[column].kind == pgoutput::value_kind::null) return truth::null;
  return key(column, kind) == nullptr ? truth::unknown : truth::no;
}

truth predicate::compare(const node& n, row_values& row, std::size_t place) const {
  const auto& c = columns_[n.column];
  if (n.with_null && n.is == op::compare) return truth::null;
  if (n.is == op::like) return of(patterns_[n.first].matches(row.get(place).bytes) != n.negated);
  const auto keys = std::span{keys_}.subspan(n.first, n.count);
  const auto* const key = row.key(place, c.kind);
  if (key == nullptr) return truth::unknown;
  if (n.is == op::in) {
    if (std::ranges::binary_search(keys, *key)) return of(!n.negated);
    return n.with_null ? truth::null : of(n.negated);
  }
  if (c.kind != comparable::enumeration || !is_ordering(n.how)) return of(holds(n.how, *key <=> keys.front()));
  const auto mine = std::ranges::find(*c.labels, *key), other = std::ranges::find(*c.labels, keys.front());
  if (mine == c.labels->end() || other == c.labels->end()) return truth::unknown;  // a label that was added since
  return of(holds(n.how, mine - c.labels->begin() <=> other - c.labels->begin()));
}

truth predicate::test(std::uint32_t at, row_values& row, std::span<const std::uint16_t> places) const {
  const auto& n = nodes_[at];
  const auto children = std::span{children_}.subspan(n.is <= op::not_ ? n.first : 0, n.is <= op::not_ ? n.count : 0);
  switch (n.is) {
    case op::not_: return negate(test(children.front(), row, places));
    case op::and_:
    case op::or_: {
      const auto decides = n.is == op::and_ ? truth::no : truth::yes;
      auto all = negate(decides);
      for (const auto child : children) {
        const auto one = test(child, row, places);
        if (one == decides) return decides;
        if (one == truth::unknown || (one == truth::null && all != truth::unknown)) all = one;
      }
      return all;
    }
    case op::compare:
    case op::in:
    case op::like:
    case op::is_null: break;
  }
  const auto place = places[n.column];
  const auto kind = row.get(place).kind;
  if (n.is == op::compare && n.with_null) return truth::null;
  if (kind == pgoutput::value_kind::unchanged) return truth::unknown;
  const bool is_null = kind == pgoutput::value_kind::null;
  if (n.is == op::is_null) return of(is_null != n.negated);
  if (is_null || (n.is == op::like && n.with_null)) return truth::null;
  return compare(n, row, place);
}

std::optional<predicate::lookup> predicate::find_lookup() const {
  if (nodes_.empty()) return std::nullopt;
  const node* best = nullptr;
  const auto look = [&](const node& n) {
    const bool fits = (n.is == op::compare && n.how == comparison::equal && !n.with_null) || (n.is == op::in && !n.negated);
    if (fits && (best == nullptr || n.count < best->count)) best = &n;
  };
  const auto& root = nodes_.front();
  if (root.is == op::and_)
    for (const auto child : std::span{children_}.subspan(root.first, root.count)) look(nodes_[child]);
  else
    look(root);
  if (best == nullptr) return std::nullopt;
  return lookup{best->column, std::span{keys_}.subspan(best->first, best->count), best == &root && best->count == 1};
}

}  // namespace postbus::feeds
