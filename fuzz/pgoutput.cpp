// Any bytes as a frame of the replication stream and as a message in it: no read outside them, and what is accepted can
// be stepped through to exactly the announced number of columns, values and relations.
#include "postgres/pgoutput.hpp"

#include <cstdlib>

namespace pgoutput = postbus::postgres::pgoutput;

namespace {

std::size_t sum;  // keeps the reads

void walk(const pgoutput::tuple& row) {
  std::size_t count = 0;
  for (auto values = row.values(); const auto value = values.next(); ++count)
    for (const char byte : value->bytes) sum += static_cast<unsigned char>(byte);
  if (count != row.count) std::abort();
}

struct walker {
  void operator()(const pgoutput::insert& i) const { walk(i.row); }
  void operator()(const pgoutput::update& u) const {
    walk(u.old);
    walk(u.row);
  }
  void operator()(const pgoutput::delete_& d) const { walk(d.old); }
  void operator()(const pgoutput::relation& r) const {
    std::size_t count = 0;
    for (auto columns = r.columns(); const auto column = columns.next(); ++count) sum += column->name.size();
    if (count != r.column_count) std::abort();
  }
  void operator()(const pgoutput::truncate& t) const {
    std::size_t count = 0;
    for (auto oids = t.relations(); const auto oid = oids.next(); ++count) sum += *oid;
    if (count != t.count) std::abort();
  }
  void operator()(const pgoutput::message& m) const {
    for (const char byte : m.content) sum += static_cast<unsigned char>(byte);
  }
  void operator()(const auto&) const {}
};

void decode(std::string_view payload) {
  if (const auto change = pgoutput::decode(payload); change.has_value()) std::visit(walker{}, *change);
  if (const auto within = pgoutput::decode_streamed(payload); within.has_value() && *within) {
    const auto put_together = (*within)->tag + std::string{(*within)->body};
    if (const auto change = pgoutput::decode(put_together); change.has_value()) std::visit(walker{}, *change);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  decode(bytes);
  if (const auto frame = pgoutput::decode_frame(bytes); frame.has_value())
    if (const auto* wrapped = std::get_if<pgoutput::xlog_data>(&*frame)) decode(wrapped->payload);
  return 0;
}
