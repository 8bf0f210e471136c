#include "feeds/binding.hpp"

#include <boost/json.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <ranges>
#include <set>

#include "embedded_sql.hpp"
#include "feeds/feed_name.hpp"
#include "postgres/replica_identity.hpp"

namespace postbus::feeds {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;
using namespace std::chrono_literals;

constexpr auto deadline = 10s;

/** The literals that PostgreSQL must read, each once. */
using literals = std::map<std::string, std::vector<std::string>, std::less<>>;

void gather(const filter_part& part, literals& into) {
  if (part.is == filter_part::op::compare || part.is == filter_part::op::in)
    for (const auto& one : part.literals)
      if (auto& of = into[part.column]; one.is != literal::what::null && std::ranges::find(of, one.text) == of.end())
        of.push_back(one.text);
  for (const auto& one : part.parts) gather(one, into);
}

/** What the catalog says of the table. */
struct table_facts {
  std::vector<column_facts> columns;
  std::map<std::string, std::vector<std::string>, std::less<>> canonical;  ///< of the literals asked for, in their order
  std::map<std::string, std::vector<std::string>, std::less<>> lacking;  ///< by column, the partitions whose identity does not carry it
  postgres::identity_target name;
  bool partitioned{};
};

std::vector<std::string> texts(std::string_view array) {
  std::vector<std::string> all;
  for (const auto& one : json::parse({array.data(), array.size()}).as_array()) all.emplace_back(one.as_string());
  return all;
}

table_facts read(const postgres::rows& found) {
  table_facts t;
  for (std::size_t row = 0; row < found.size(); ++row) {
    const auto number = [&](std::size_t column) {
      oid value{};
      const auto text = found.text(row, column);
      std::from_chars(text.data(), text.data() + text.size(), value);
      return value;
    };
    column_facts c{.name = std::string{found.text(row, 0)},
                   .type = number(1),
                   .type_name = std::string{found.text(row, 4)},
                   .quoted = std::string{found.text(row, 17)},
                   .cast = std::string{found.text(row, 5)}};
    c.kind = found.is_true(row, 3) ? comparable::enumeration : comparable_of(number(2));
    c.equality = found.is_true(row, 6);
    c.ordered = !is_text(c.kind) || found.is_true(row, 7);
    if (const auto labels = found.get(row, 8)) c.labels = std::make_shared<const std::vector<std::string>>(texts(*labels));
    c.hidden = found.is_true(row, 9);
    c.in_key = found.is_true(row, 10);
    c.in_identity = found.is_true(row, 11);
    c.not_null = found.is_true(row, 12);
    if (const auto values = found.get(row, 13)) t.canonical[c.name] = texts(*values);
    t.partitioned = found.is_true(row, 14);
    if (const auto lacking = found.get(row, 15)) t.lacking[c.name] = texts(*lacking);
    t.name = {.table = std::string{found.text(row, 16)}, .bare = std::string{found.text(row, 18)}};
    t.columns.push_back(std::move(c));
  }
  return t;
}

asio::awaitable<result<table_facts>> ask(postgres::connection& session, const std::string& channel, const literals& wanted) {
  json::object list;
  for (const auto& [column, values] : wanted) list[column] = json::array(values.begin(), values.end());
  const auto text = json::serialize(list);
  const postgres::parameter parameters[] = {channel, text};
  const postgres::connection::statement statements[] = {
      {.sql = embedded_sql::find("statements/feeds/canonical_text.sql"), .parameters = {}, .with_next = true},
      {.sql = embedded_sql::find("statements/feeds/bind.sql"), .parameters = parameters}};
  auto answers = co_await session.pipeline(statements, deadline);
  if (!answers) co_return answers.error();
  auto& found = answers->back();
  if (!found) co_return found.error();
  if (found->size() == 0) co_return not_watched(std::string_view{channel}.substr(feed_prefix.size()));
  co_return read(*found);
}

/** PostgreSQL refused some literal: which one? Of a column that the feed does not show none is tried: its type is not told. */
asio::awaitable<result<table_facts>> find_culprit(postgres::connection& session, const std::string& channel, literals wanted) {
  auto types = co_await ask(session, channel, {});
  if (!types) co_return types;
  const auto facts_of = [&](const std::string& column) { return std::ranges::find(types->columns, column, &column_facts::name); };
  const auto none = types->columns.end();
  if (std::erase_if(wanted, [&](const auto& of) { return facts_of(of.first) == none || facts_of(of.first)->hidden; }) > 0)
    if (auto others = co_await ask(session, channel, wanted); others || others.error().code != errc::database) co_return others;
  for (const auto& [column, values] : wanted)
    for (const auto& value : values) {
      auto one = co_await ask(session, channel, {{column, {value}}});
      if (one) continue;
      if (one.error().code != errc::database) co_return one;
      co_return error{
          errc::invalid_argument,
          fmt::format("the filter: PostgreSQL takes '{}' for no value of {} (column {})", value, facts_of(column)->type_name, column),
          one.error().detail};
    }
  co_return error{errc::database, "the database could not read the filter's literals"};
}

std::string list(const std::vector<std::string>& names) {
  std::string all;
  for (const auto& n : names) all += (all.empty() ? "" : ", ") + n;
  return all;
}

/** The SQL that lets each partition carry the filter's columns. */
std::string fix_partitions(const table_facts& t, const predicate& filter) {
  constexpr std::size_t named = 5;
  std::set<std::string_view> lacking;
  for (const auto& needed : filter.columns())
    if (const auto of = t.lacking.find(needed.name); of != t.lacking.end()) lacking.insert(of->second.begin(), of->second.end());
  std::string sql;
  for (const auto name : lacking | std::views::take(named))
    sql += fmt::format("{}alter table {} replica identity full", sql.empty() ? "" : "; ", name);
  if (lacking.size() > named) sql += fmt::format("; and the same for {} more", lacking.size() - named);
  return sql;
}

/** The SQL that lets the identity carry the filter's columns: the least first. */
std::string fix(const table_facts& t, const predicate& filter) {
  if (t.partitioned) return fix_partitions(t, filter);
  const auto full = fmt::format("alter table {} replica identity full", t.name.table);
  std::vector<std::string> columns;
  std::string not_null;
  bool keyed = false;
  for (const auto& c : t.columns) {
    keyed |= c.in_key;
    if (c.in_key || c.in_identity) columns.push_back(c.quoted);  // what other filters made the identity carry stays in it
  }
  for (const auto& needed : filter.columns()) {
    const auto c = std::ranges::find(t.columns, needed.name, &column_facts::name);
    if (!c->in_key && !c->in_identity) columns.push_back(c->quoted);
    if (!c->not_null) not_null += fmt::format("alter table {} alter {} set not null; ", t.name.table, c->quoted);
  }
  if (!keyed) return full;
  return fmt::format("{}{}; or, where a column may be null or large: {}", not_null,
                     postgres::identity_by_index(t.name, list(columns), columns.size()), full);
}

}  // namespace

asio::awaitable<result<view::parts>> bind_view(postgres::connection& session, std::string channel, view_request asked) {
  view::parts made{.feed = channel, .maybe = asked.maybe};
  std::optional<filter_part> written;
  literals wanted;
  if (!asked.where.empty()) {
    auto parsed = parse_filter(asked.where);
    if (!parsed) co_return parsed.error();
    gather(*parsed, wanted);
    written = std::move(*parsed);
  }
  auto found = co_await ask(session, channel, wanted);
  if (!found && found.error().code == errc::database) found = co_await find_culprit(session, channel, wanted);
  if (!found) co_return found.error();
  const auto& t = *found;

  if (asked.columns) {
    if (asked.columns->empty())
      co_return error{errc::invalid_argument, "`columns` names at least one column, or is left out for all of them"};
    for (const auto& name : *asked.columns) {
      const auto c = std::ranges::find(t.columns, name, &column_facts::name);
      if (c == t.columns.end() || c->hidden)
        co_return error{errc::invalid_argument, fmt::format("the feed has no column {}; it has: {}", name, names_of(t.columns))};
    }
    std::ranges::sort(*asked.columns);
    asked.columns->erase(std::ranges::unique(*asked.columns).begin(), asked.columns->end());
    made.columns = std::move(asked.columns);
  }
  if (!written) co_return made;
  const auto canonical = [&](std::string_view column, std::string_view text) -> std::optional<std::string> {
    const auto asked_for = wanted.find(column);
    const auto given = t.canonical.find(column);
    if (asked_for == wanted.end() || given == t.canonical.end()) return std::nullopt;
    const auto at = static_cast<std::size_t>(std::ranges::find(asked_for->second, text) - asked_for->second.begin());
    return at < given->second.size() ? std::optional{given->second[at]} : std::nullopt;
  };
  auto bound = predicate::bind(*written, t.columns, canonical);
  if (!bound) co_return bound.error();
  bool exact = true;
  for (const auto& needed : bound->columns()) {
    const auto c = std::ranges::find(t.columns, needed.name, &column_facts::name);
    exact = exact && c->in_identity;
  }
  if (!exact) {
    made.fix = fix(t, *bound);
    if (!made.maybe) co_return inexact(channel, made.fix);
  }
  made.filter = std::move(*bound);
  co_return made;
}

}  // namespace postbus::feeds
