#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace postbus::feeds {

using oid = std::uint32_t;

/** How row_to_json writes values of a type, seen from their text form. */
enum class shape : std::uint8_t {
  text,         ///< a JSON string, as is everything not named here
  number,       ///< bare; NaN and infinities as strings
  boolean,      ///< t, f
  json,         ///< embedded as it is
  timestamp,    ///< a string with T between date and time
  timestamptz,  ///< and with minutes in the offset
  array,        ///< {1,2,NULL,"a b"}
  vector,       ///< int2vector and oidvector: 1 2 3
  composite,    ///< (1,"a b",)
};

/** Complete, with the types it is made of, before it is used; never changed after. */
struct value_type {
  struct field {
    std::string key;  ///< "name": as JSON, with the colon
    const value_type* of{};
  };
  shape form{shape::text};
  char delimiter{','};       ///< arrays: between elements
  oid element{};             ///< arrays and vectors
  const value_type* of{};    ///< what `element` stands for
  std::vector<field> fields; ///< composites
};

/** What the catalog says of a type; see sql/statements/feeds/types.sql. */
struct type_row {
  oid type{};
  oid base{};     ///< domains: what they are made of; else 0
  oid element{};  ///< true arrays; else 0
  char delimiter{','};
  struct attribute {
    std::string name;
    oid type{};
    bool operator==(const attribute&) const = default;
  };
  std::vector<attribute> attributes;  ///< composites
  bool operator==(const type_row&) const = default;
};

/**
 * Types by oid: PostgreSQL's own, whose oids never change, and those that were looked up. One thread looks up and adds; what
 * was found may be used on any, and stays valid while the table lives.
 */
class type_table {
public:
  type_table();
  /** Null when it must be looked up. */
  const value_type* find(oid type) const;
  /** Adds what a look-up of `asked` found. A type the catalog does not know any more becomes text. */
  void add(const std::vector<type_row>& found, const std::vector<oid>& asked);

private:
  const value_type* resolve(oid type, const boost::unordered_flat_map<oid, const type_row*>& rows, int depth);
  value_type* make(value_type made);

  boost::unordered_flat_map<oid, const value_type*> by_oid_;
  std::vector<std::unique_ptr<value_type>> made_;
};

/**
 * Appends a value given in text form (datestyle ISO, timezone UTC) as row_to_json would write it. False: the text, or a part of it,
 * is not what `type` promises, and stands there as a string.
 */
bool append_value(std::string& out, const value_type& type, std::string_view text);

}  // namespace postbus::feeds
