#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "feeds/value_type.hpp"

namespace postbus::feeds {

/** How values of a type are compared; `none`: we do not. */
enum class comparable : std::uint8_t {
  none,
  boolean,
  integer,       ///< int2, int4, int8, oid
  float4,
  float8,
  numeric,
  text,          ///< text, varchar: equality, and by bytes (collation C)
  blank_padded,  ///< bpchar: as text, trailing blanks do not count
  bytes,         ///< uuid, bytea: the text form's order is the value's
  date,
  time,
  timestamp,
  timestamptz,
  enumeration,   ///< equality; its order is the catalog's
};

/** For a type that is no domain; enumerations are not known by their oid. */
comparable comparable_of(oid type);
inline bool is_text(comparable kind) { return kind == comparable::text || kind == comparable::blank_padded; }

/**
 * Appends a key for a value in its text form (datestyle ISO, timezone UTC, bytea_output hex): two values are equal for
 * PostgreSQL when their keys are the same bytes, and are ordered as the keys' bytes are (but for `enumeration`, whose keys
 * know equality only). False, with nothing appended, when the text is not one that PostgreSQL writes for that type.
 */
bool append_sort_key(std::string& out, comparable kind, std::string_view text);

}  // namespace postbus::feeds
