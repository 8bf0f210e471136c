#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "feeds/filter.hpp"
#include "feeds/like.hpp"
#include "feeds/row_change.hpp"
#include "feeds/sort_key.hpp"

namespace postbus::feeds {

/** SQL's three values, and one more: the row does not tell. */
enum class truth : std::uint8_t { no, null, yes, unknown };

/** The values of one row and, made when first asked for, their sort keys. Reused from row to row. */
class row_values {
public:
  /** Forgets what was; values are set one by one, all `unchanged` (not known) before. */
  void reset(std::size_t columns);
  void set(std::size_t column, const postgres::pgoutput::value& v) { values_[column] = v; }
  const postgres::pgoutput::value& get(std::size_t column) const { return values_[column]; }
  /** Null where the value is NULL, is not known, or has no key. A column's kind is the same at each call. */
  const std::string* key(std::size_t column, comparable kind);
  /** What a comparison with a key comes to that is not this row's. */
  truth without(std::size_t column, comparable kind);

private:
  std::vector<postgres::pgoutput::value> values_;
  struct made_key {
    std::string bytes;
    enum class state : std::uint8_t { unmade, made, none } is{};
  };
  std::vector<made_key> keys_;
};

/** What the catalog says of a column that a filter names. */
struct column_facts {
  std::string name;
  oid type{};                ///< as in the relation message
  comparable kind{};
  std::string type_name;     ///< for people: "integer"
  std::string quoted{};      ///< its name as SQL takes it
  std::string cast;          ///< how SQL names the type of its literals: pg_catalog.int4; of a domain the type it is made of
  bool equality{true};       ///< its collation is deterministic
  bool ordered{true};        ///< its order is the one of sort keys, or of `labels`
  bool hidden{};             ///< `watch` was not given it
  bool in_identity{}, in_key{}, not_null{};
  std::shared_ptr<const std::vector<std::string>> labels{};  ///< of an enumeration, in order
};

/** The names of those that a feed shows, for people. */
std::string names_of(std::span<const column_facts> columns);

/**
 * A filter whose names are columns and whose literals are values: it judges rows as PostgreSQL would, and can be written
 * as SQL that PostgreSQL judges alike. Immutable; any thread.
 */
class predicate {
public:
  /**
   * Gives a filter its types. `columns`: of the whole table. `canonical(column, literal)`: the literal as a value of the
   * column's type in PostgreSQL's own text form. errc::invalid_argument tells what does not fit, and where.
   */
  using canonical_text = std::function<std::optional<std::string>(std::string_view column, std::string_view literal)>;
  static result<predicate> bind(const filter_part& written, std::span<const column_facts> columns, const canonical_text& canonical);

  struct column {
    std::string name;
    oid type{};
    comparable kind{};
    std::shared_ptr<const std::vector<std::string>> labels;
  };
  /** The columns it needs, each once. */
  std::span<const column> columns() const { return columns_; }
  /** `places[i]` is where columns()[i] stands in `row`. */
  truth test(row_values& row, std::span<const std::uint16_t> places) const { return test(0, row, places); }
  /** As SQL: quoted names, quoted literals with casts. Equal filters have equal texts. */
  std::string_view sql() const { return sql_; }

  /** A condition without which no row matches: the column has one of these keys. */
  struct lookup {
    std::uint16_t column{};  ///< of columns()
    std::span<const std::string> keys;
    bool is_all{};  ///< it is the whole filter, and the key is one: rows that have it match, and no others
  };
  std::optional<lookup> find_lookup() const;

private:
  friend class predicate_binder;
  struct node {
    filter_part::op is{};
    comparison how{};
    bool negated{};
    bool with_null{};        ///< one of the literals is NULL
    std::uint16_t column{};
    std::uint32_t first{}, count{};  ///< of keys_; of patterns_ for like; of children_ for and, or, not
  };
  truth test(std::uint32_t at, row_values& row, std::span<const std::uint16_t> places) const;
  truth compare(const node& n, row_values& row, std::size_t place) const;

  std::vector<column> columns_;
  std::vector<node> nodes_;  // the root is the first
  std::vector<std::uint32_t> children_;
  std::vector<std::string> keys_;
  std::vector<like_pattern> patterns_;
  std::string sql_;
};

}  // namespace postbus::feeds
