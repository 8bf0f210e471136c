// Any text as a filter: it is refused with a place, or it can be bound, written as SQL, and judged on any row. What is written
// is a filter of the same meaning again, which is how equal ones are found.
#include "feeds/filter.hpp"

#include <cstdlib>

#include "base/json_text.hpp"
#include "feeds/predicate.hpp"

namespace feeds = postbus::feeds;

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const std::vector<feeds::column_facts> columns{
      {.name = "a", .type = 23, .kind = feeds::comparable::integer, .type_name = "integer", .cast = "int4"},
      {.name = "t", .type = 25, .kind = feeds::comparable::text, .type_name = "text", .cast = "text"},
      {.name = "b", .type = 16, .kind = feeds::comparable::boolean, .type_name = "boolean", .cast = "bool"},
      {.name = "n", .type = 1700, .kind = feeds::comparable::numeric, .type_name = "numeric", .cast = "numeric"},
      {.name = "d", .type = 1082, .kind = feeds::comparable::date, .type_name = "date", .cast = "date"}};
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  (void)feeds::parse_names(text);
  const auto written = feeds::parse_filter(text);
  if (!written) {
    if (!postbus::is_utf8(written.error().text)) std::abort();
    return 0;
  }
  const auto bound = feeds::predicate::bind(*written, columns,
                                            [](std::string_view, std::string_view literal) { return std::optional<std::string>{literal}; });
  if (!bound) return 0;
  std::vector<std::uint16_t> places;
  for (const auto& c : bound->columns())
    places.push_back(static_cast<std::uint16_t>(std::ranges::find(columns, c.name, &feeds::column_facts::name) - columns.begin()));
  feeds::row_values row;
  for (const auto kind : {postbus::postgres::pgoutput::value_kind::text, postbus::postgres::pgoutput::value_kind::null,
                          postbus::postgres::pgoutput::value_kind::unchanged}) {
    row.reset(columns.size());
    for (std::size_t i = 0; i < columns.size(); ++i) row.set(i, {kind, text.substr(0, 40)});
    const auto first = bound->test(row, places);
    if (kind == postbus::postgres::pgoutput::value_kind::null && first == feeds::truth::unknown) std::abort();  // NULL is known
    if (first != bound->test(row, places)) std::abort();
  }
  if (const auto lookup = bound->find_lookup(); lookup && lookup->column >= bound->columns().size()) std::abort();
  return 0;
}
