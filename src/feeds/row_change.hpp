#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/event.hpp"
#include "feeds/value_type.hpp"
#include "postgres/pgoutput.hpp"

namespace postbus::feeds {

/** Some columns of a table, by their number. */
using column_set = std::vector<bool>;

/**
 * A table as one relation message and the options of `watch` describe it. Never changed once an event was made by it: events
 * keep it alive (bus::batch::hold) and any thread may read it.
 */
struct table_description : std::enable_shared_from_this<table_description> {
  struct column {
    std::string name;
    std::string key_text;  ///< "name": as JSON, with the colon
    oid type_oid{};
    std::int32_t type_modifier{};
    const value_type* type{};
  };
  oid id{};
  std::string schema, name;
  std::string channel;
  std::string head;        ///< {"schema":…,"table":…,"action":"
  std::size_t table_at{};  ///< where "table" begins in it
  postgres::pgoutput::replica_identity identity{};
  std::vector<column> columns;
  column_set shown;        ///< columns that `watch` was given
  column_set in_identity;  ///< part of the replica identity
  column_set key;          ///< what a row is known by: the identity, or the primary key under FULL and of a partitioned table
  bool partitioned{};
  /**
   * Columns whose old values are known of every update and delete: an old tuple has them, and an update without one left them
   * as they were. The identity, all columns under FULL; of a partitioned table what each of its partitions carries.
   */
  column_set carried;
  std::shared_ptr<const type_table> types;  ///< keeps the columns' types

  /** The number of the column of that name, or columns.size(). */
  std::size_t find(std::string_view column_name) const;
};

/** One row's change as the stream told it. Views. */
struct row_change {
  bus::kind kind{};  ///< insert, update, delete_, truncate or schema
  postgres::pgoutput::old_row old_kind{};
  postgres::pgoutput::tuple old{}, row{};
  const table_description* table{};
};

/** Lets `made`, an event of `out`, carry the change it was made from. */
void keep_change(bus::event& made, const row_change& change, const std::shared_ptr<const table_description>& table, bus::batch& out);
/** The change that an event of a table's channel was made from; without a table where it carries none. Views into the event's batch. */
row_change change_of(const bus::event& made);

/** `a` and `b` without those not in both. */
column_set both(const column_set& a, const column_set& b);

/**
 * An old tuple tells this value. Of columns that it does not carry it has NULL, whatever they held, also where the server calls
 * it the full row: of a partitioned table that word goes by the root's identity, the values by the partition's.
 */
inline bool is_told(const table_description& t, std::size_t column, const postgres::pgoutput::value& old) {
  using enum postgres::pgoutput::value_kind;
  return old.kind == text || old.kind == binary || (old.kind == null && t.carried[column]);
}

/** Appends what `old`, a row before an update or delete, tells of the columns `wanted`, as an object. */
bool append_old_columns(std::string& out, const table_description& t, const postgres::pgoutput::tuple& old, const column_set& wanted);

/**
 * Appends the columns `wanted` of `row` as an object. TOASTed values that an update did not touch come from `old` (null: not
 * known), else the column is left out and its name added to `left_out` (null: nobody asks). False: a value is not what its type
 * promises (append_value).
 */
bool append_columns(std::string& out, const table_description& t, const postgres::pgoutput::tuple& row,
                    const postgres::pgoutput::tuple* old, const column_set& wanted, std::string* left_out);

}  // namespace postbus::feeds
