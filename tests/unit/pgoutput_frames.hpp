#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.hpp"
#include "base/clock.hpp"
#include "postgres/pgoutput.hpp"

/** Writes what a walsender sends, for tests of what reads it. Layouts: PostgreSQL manual, "Logical Replication Message Formats". */
namespace postbus::testing_support::wire {

inline void append_time(std::string& out, unix_micros time) { append_big(out, time - postgres_epoch_micros); }
inline void append_text(std::string& out, std::string_view text) { out.append(text).push_back('\0'); }

inline std::string begin(std::uint64_t final_lsn, unix_micros time, std::uint32_t xid) {
  std::string out{"B"};
  append_big(out, final_lsn);
  append_time(out, time);
  append_big(out, xid);
  return out;
}
inline std::string commit(std::uint64_t commit_lsn, std::uint64_t end_lsn, unix_micros time) {
  std::string out{"C"};
  append_big(out, std::uint8_t{});
  append_big(out, commit_lsn);
  append_big(out, end_lsn);
  append_time(out, time);
  return out;
}
inline std::string message(std::string_view prefix, std::string_view content, bool transactional = true) {
  std::string out{"M"};
  append_big(out, static_cast<std::uint8_t>(transactional));
  append_big(out, std::uint64_t{0x1000});
  append_text(out, prefix);
  append_big(out, static_cast<std::uint32_t>(content.size()));
  out += content;
  return out;
}
struct column {
  std::string_view name;
  std::uint32_t type;
  bool key{};
};
inline std::string relation(std::uint32_t oid, std::string_view schema, std::string_view name, std::vector<column> columns,
                            char identity = 'd') {
  std::string out{"R"};
  append_big(out, oid);
  append_text(out, schema);
  append_text(out, name);
  out += identity;
  append_big(out, static_cast<std::uint16_t>(columns.size()));
  for (const auto& c : columns) {
    append_big(out, static_cast<std::uint8_t>(c.key));
    append_text(out, c.name);
    append_big(out, c.type);
    append_big(out, std::int32_t{-1});
  }
  return out;
}
/** A value's text; nullopt is NULL, `unchanged` a TOASTed value that was not sent. */
using value = std::optional<std::string_view>;
inline constexpr std::string_view unchanged{"\1unchanged"};
inline void append_row(std::string& out, const std::vector<value>& row) {
  append_big(out, static_cast<std::uint16_t>(row.size()));
  for (const auto& v : row) {
    if (!v) {
      out += 'n';
    } else if (*v == unchanged) {
      out += 'u';
    } else {
      out += 't';
      append_big(out, static_cast<std::uint32_t>(v->size()));
      out += *v;
    }
  }
}
inline std::string insert(std::uint32_t oid, const std::vector<value>& row) {
  std::string out{"I"};
  append_big(out, oid);
  out += 'N';
  append_row(out, row);
  return out;
}
inline std::string update(std::uint32_t oid, const std::vector<value>& row, char old_kind = 0, const std::vector<value>& old = {}) {
  std::string out{"U"};
  append_big(out, oid);
  if (old_kind != 0) {
    out += old_kind;
    append_row(out, old);
  }
  out += 'N';
  append_row(out, row);
  return out;
}
inline std::string delete_(std::uint32_t oid, char old_kind, const std::vector<value>& old) {
  std::string out{"D"};
  append_big(out, oid);
  out += old_kind;
  append_row(out, old);
  return out;
}
inline std::string truncate(std::vector<std::uint32_t> oids) {
  std::string out{"T"};
  append_big(out, static_cast<std::uint32_t>(oids.size()));
  append_big(out, std::uint8_t{});
  for (const auto oid : oids) append_big(out, oid);
  return out;
}
/** `payload` must outlive the frame. */
inline postgres::pgoutput::frame data(const std::string& payload, unix_micros sent = 0, std::uint64_t at = 0) {
  return postgres::pgoutput::xlog_data{.wal_start = at, .wal_end = 0, .sent = sent, .payload = payload};
}
inline postgres::pgoutput::frame alive(std::uint64_t wal_end) {
  return postgres::pgoutput::keepalive{.wal_end = wal_end, .sent = 0, .reply_requested = false};
}

}  // namespace postbus::testing_support::wire
