#include "feeds/row_change.hpp"

#include <algorithm>
#include <cstring>

namespace postbus::feeds {
namespace {

namespace pgoutput = postgres::pgoutput;

/** What stands at the front of an origin; the bytes of the old and of the new tuple follow. Holds no pointer into the batch: origins are copied. */
struct origin_head {
  const table_description* table;
  std::uint32_t old_bytes;
  std::uint16_t old_count, row_count;
  char old_kind;
};
static_assert(std::is_trivially_copyable_v<origin_head>);

/** False: the value does not fit its type; see append_value. */
bool append_member(std::string& out, const table_description::column& c, const pgoutput::value& v) {
  if (out.back() != '{') out += ',';
  out += c.key_text;
  if (v.kind != pgoutput::value_kind::null) return append_value(out, *c.type, v.bytes);
  out += "null";
  return true;
}

}  // namespace

std::size_t table_description::find(std::string_view column_name) const {
  return static_cast<std::size_t>(std::ranges::find(columns, column_name, &column::name) - columns.begin());
}

void keep_change(bus::event& made, const row_change& change, const std::shared_ptr<const table_description>& table, bus::batch& out) {
  out.hold(table);
  const origin_head head{.table = table.get(),
                         .old_bytes = static_cast<std::uint32_t>(change.old.bytes.size()),
                         .old_count = change.old.count,
                         .row_count = change.row.count,
                         .old_kind = static_cast<char>(change.old_kind)};
  const auto size = sizeof head + change.old.bytes.size() + change.row.bytes.size();
  char* const bytes = out.allocate(size);
  std::memcpy(bytes, &head, sizeof head);
  std::ranges::copy(change.old.bytes, bytes + sizeof head);
  std::ranges::copy(change.row.bytes, bytes + sizeof head + change.old.bytes.size());
  made.origin = {bytes, size};
}

row_change change_of(const bus::event& made) {
  if (made.origin.size() < sizeof(origin_head) || !made.channel.starts_with("table:")) return {};
  origin_head head;
  std::memcpy(&head, made.origin.data(), sizeof head);
  const auto tuples = made.origin.substr(sizeof head);
  return {.kind = made.kind,
          .old_kind = static_cast<pgoutput::old_row>(head.old_kind),
          .old = {.count = head.old_count, .bytes = tuples.substr(0, head.old_bytes)},
          .row = {.count = head.row_count, .bytes = tuples.substr(head.old_bytes)},
          .table = head.table};
}

column_set both(const column_set& a, const column_set& b) {
  column_set out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = a[i] && b[i];
  return out;
}

bool append_columns(std::string& out, const table_description& t, const pgoutput::tuple& row, const pgoutput::tuple* old,
                    const column_set& wanted, std::string* left_out) {
  out += '{';
  bool fits = true;
  auto values = row.values();
  auto old_values = old ? old->values() : pgoutput::value_reader{};
  for (std::size_t i = 0; i < t.columns.size(); ++i) {
    const auto& c = t.columns[i];
    auto v = values.next();
    const auto before = old ? old_values.next() : std::nullopt;
    if (!v) break;
    if (!wanted[i]) continue;
    if (v->kind == pgoutput::value_kind::unchanged) {
      if (before && is_told(t, i, *before)) {
        v = before;
      } else {
        if (left_out != nullptr) {
          *left_out += left_out->empty() ? "" : ",";
          left_out->append(c.key_text, 0, c.key_text.size() - 1);
        }
        continue;
      }
    }
    fits &= append_member(out, c, *v);
  }
  out += '}';
  return fits;
}

bool append_old_columns(std::string& out, const table_description& t, const pgoutput::tuple& old, const column_set& wanted) {
  out += '{';
  bool fits = true;
  auto values = old.values();
  for (std::size_t i = 0; i < t.columns.size(); ++i) {
    const auto v = values.next();
    if (!v) break;
    if (wanted[i] && is_told(t, i, *v)) fits &= append_member(out, t.columns[i], *v);
  }
  out += '}';
  return fits;
}

}  // namespace postbus::feeds
