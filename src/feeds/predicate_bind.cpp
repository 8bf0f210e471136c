// From what was written to what can be judged: names become columns, literals become keys of the columns' types, and the
// whole becomes the SQL by which equal filters know one another.
#include <fmt/format.h>

#include <algorithm>

#include "feeds/predicate.hpp"
#include "postgres/connection.hpp"

namespace postbus::feeds {
namespace {

using op = filter_part::op;

error wrong(std::size_t at, std::string_view what) {
  return {errc::invalid_argument, fmt::format("the filter, at character {}: {}", at, what)};
}

std::string_view spelling(comparison how) {
  switch (how) {
    case comparison::equal: return "=";
    case comparison::not_equal: return "<>";
    case comparison::less: return "<";
    case comparison::less_equal: return "<=";
    case comparison::greater: return ">";
    case comparison::greater_equal: return ">=";
  }
  return "";
}

}  // namespace

std::string names_of(std::span<const column_facts> columns) {
  std::string all;
  for (const auto& c : columns)
    if (!c.hidden) all += (all.empty() ? "" : ", ") + c.name;
  return all;
}

class predicate_binder {
public:
  predicate_binder(std::span<const column_facts> columns, const predicate::canonical_text& canonical)
      : facts_{columns}, canonical_{canonical} {}

  result<predicate> bind(const filter_part& written) {
    auto text = add(written);
    if (!text) return text.error();
    made_.sql_ = std::move(*text);
    return std::move(made_);
  }

private:
  /** Adds the part and what is below it; its SQL. */
  result<std::string> add(const filter_part& part) {
    const auto at = made_.nodes_.size();
    made_.nodes_.push_back({.is = part.is, .how = part.how, .negated = part.negated});
    return part.is <= op::not_ ? combination(part, at) : condition(part, at);
  }

  result<std::string> combination(const filter_part& part, std::size_t at) {
    std::vector<std::uint32_t> below;
    std::string text = part.is == op::not_ ? "not " : "";
    for (const auto& one : part.parts) {
      below.push_back(static_cast<std::uint32_t>(made_.nodes_.size()));
      auto inner = add(one);
      if (!inner) return inner;
      if (&one != &part.parts.front()) text += part.is == op::and_ ? " and " : " or ";
      text += '(' + *inner + ')';
    }
    auto& n = made_.nodes_[at];
    n.first = static_cast<std::uint32_t>(made_.children_.size());
    n.count = static_cast<std::uint32_t>(below.size());
    made_.children_.insert(made_.children_.end(), below.begin(), below.end());
    return text;
  }

  result<std::string> condition(const filter_part& part, std::size_t at) {
    const auto found = std::ranges::find(facts_, part.column, &column_facts::name);
    if (found == facts_.end() || found->hidden)
      return wrong(part.at, fmt::format("the feed has no column {}; it has: {}", part.column, names_of(facts_)));
    const auto& c = *found;
    if (part.is != op::is_null)
      if (auto fits = check(part, c); !fits) return fits.error();
    auto& n = made_.nodes_[at];
    n.column = place(c);
    std::string text = postgres::quote_identifier(c.name);
    if (part.is == op::is_null) return text + (part.negated ? " is not null" : " is null");
    if (part.is == op::like) {
      const auto& pattern = part.literals.front();
      n.with_null = pattern.is == literal::what::null;
      n.first = static_cast<std::uint32_t>(made_.patterns_.size());
      n.count = 1;
      made_.patterns_.emplace_back(pattern.text, part.escape);
      text += (part.negated ? " not like " : " like ") + (n.with_null ? std::string{"null"} : postgres::quote_literal(pattern.text));
      return text + " escape " + postgres::quote_literal(part.escape);
    }

    n.first = static_cast<std::uint32_t>(made_.keys_.size());
    struct value {
      std::string key, sql;
    };
    std::vector<value> values;
    for (const auto& one : part.literals) {
      if (one.is == literal::what::null) {
        n.with_null = true;
        continue;
      }
      const auto canonical = canonical_(c.name, one.text);
      auto& made = values.emplace_back();
      if (!canonical || !append_sort_key(made.key, c.kind, *canonical))
        return wrong(one.at, fmt::format("'{}' is no value of type {}", one.text, c.type_name));
      made.sql = postgres::quote_literal(*canonical) + "::" + c.cast;
    }
    std::ranges::sort(values, {}, &value::key);
    values.erase(std::ranges::unique(values, {}, &value::key).begin(), values.end());
    std::string list;
    for (auto& v : values) {
      list += (list.empty() ? "" : ", ") + v.sql;
      made_.keys_.push_back(std::move(v.key));
    }
    n.count = static_cast<std::uint32_t>(values.size());
    if (n.with_null) list += (list.empty() ? "null::" : ", null::") + c.cast;
    if (part.is == op::in) return text + (part.negated ? " not in (" : " in (") + list + ')';
    return text + ' ' + std::string{spelling(part.how)} + ' ' + list;
  }

  /** Whether PostgreSQL would take this condition, and we can judge it as it does. */
  static result<> check(const filter_part& part, const column_facts& c) {
    if (part.is == op::like && !(is_text(c.kind) && c.equality))
      return wrong(part.at, fmt::format("LIKE is for text; {} is of type {}", c.name, c.type_name));
    if (c.kind == comparable::none)
      return wrong(part.at, fmt::format("values of type {} cannot be compared in a filter; {} can be tested with IS NULL alone",
                                        c.type_name, c.name));
    if (!c.equality)
      return wrong(part.at, fmt::format("the collation of {} is not deterministic: only PostgreSQL itself can compare its values", c.name));
    if (part.is == op::compare && is_ordering(part.how) && !c.ordered)
      return wrong(
          part.at,
          fmt::format("{} is ordered by a language's rules, which only PostgreSQL itself knows; < and > work on text with collation \"C\"",
                      c.name));
    const bool number = c.kind >= comparable::integer && c.kind <= comparable::numeric;
    for (const auto& one : part.literals) {
      if (one.is == literal::what::number && !number)
        return wrong(one.at, fmt::format("{} is of type {}: write the literal in quotes, '{}'", c.name, c.type_name, one.text));
      if (one.is == literal::what::boolean && c.kind != comparable::boolean)
        return wrong(one.at, fmt::format("{} is of type {}, not boolean", c.name, c.type_name));
    }
    return {};
  }
  static bool is_ordering(comparison how) { return how != comparison::equal && how != comparison::not_equal; }

  /** The column's number among those the predicate needs. */
  std::uint16_t place(const column_facts& c) {
    const auto known = std::ranges::find(made_.columns_, c.name, &predicate::column::name);
    const auto at = static_cast<std::uint16_t>(known - made_.columns_.begin());
    if (known == made_.columns_.end()) made_.columns_.push_back({.name = c.name, .type = c.type, .kind = c.kind, .labels = c.labels});
    return at;
  }

  std::span<const column_facts> facts_;
  const predicate::canonical_text& canonical_;
  predicate made_;
};

result<predicate> predicate::bind(const filter_part& written, std::span<const column_facts> columns, const canonical_text& canonical) {
  return predicate_binder{columns, canonical}.bind(written);
}

}  // namespace postbus::feeds
