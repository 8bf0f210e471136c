#include "postgres/replica_identity.hpp"

#include <fmt/format.h>

namespace postbus::postgres {

std::string identity_by_index(const identity_target& of, std::string_view columns, std::size_t count) {
  const std::string_view bare = of.bare;
  const bool quoted = bare.starts_with('"');
  const auto index = fmt::format("{}postbus_identity_{}_{}", quoted ? "\"" : "", count, bare.substr(quoted ? 1 : 0));
  return fmt::format("create unique index {0} on {1} ({2}); alter table {1} replica identity using index {0}", index, of.table, columns);
}

}  // namespace postbus::postgres
