#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/clock.hpp"
#include "base/result.hpp"

/**
 * The frames of a logical replication stream and the messages of the output plugin pgoutput, protocol versions 1 and 2.
 *
 * I/O-free and zero-copy: every view points into the bytes given, and is valid as long as they are. All lengths are
 * untrusted: a message that is short, too long or inconsistent is errc::protocol and never a read outside its bytes.
 * Any thread. Source: PostgreSQL manual, "Streaming Replication Protocol" and "Logical Replication Message Formats".
 */
namespace postbus::postgres::pgoutput {

/** The walsender has sent all it has up to wal_end. */
struct keepalive {
  std::uint64_t wal_end{};
  unix_micros sent{};  ///< by the server's clock
  bool reply_requested{};
};
/** One message of the plugin. */
struct xlog_data {
  std::uint64_t wal_start{};
  std::uint64_t wal_end{};
  unix_micros sent{};  ///< by the server's clock, taken as late as possible
  std::string_view payload;
};
using frame = std::variant<keepalive, xlog_data>;

/** Decodes the content of one CopyData message. */
result<frame> decode_frame(std::string_view bytes);
result<frame> decode_frame(std::string&& dies_before_the_frame) = delete;

struct begin {
  std::uint64_t final_lsn{};  ///< where the commit record starts, not where it ends
  unix_micros commit_time{};
  std::uint32_t xid{};
};
struct commit {
  std::uint64_t commit_lsn{};
  std::uint64_t end_lsn{};
  unix_micros commit_time{};
};
struct origin {
  std::uint64_t lsn{};
  std::string_view name;
};
struct type {
  std::uint32_t oid{};
  std::string_view schema, name;
};
struct message {
  bool transactional{};
  std::uint64_t lsn{};
  std::string_view prefix;
  std::string_view content;
};

enum class replica_identity : char { default_ = 'd', nothing = 'n', full = 'f', index = 'i' };

/** One column of a relation. `key`: part of the replica identity (every column under FULL). */
struct column {
  bool key{};
  std::string_view name;
  std::uint32_t type_oid{};
  std::int32_t type_modifier{};
};

/** Steps through columns whose bytes decode() has already checked. */
class column_reader {
public:
  column_reader() = default;
  explicit column_reader(std::string_view checked) : rest_{checked} {}
  /** The next column; nullopt after the last. */
  std::optional<column> next();

private:
  std::string_view rest_;
};

struct relation {
  std::uint32_t oid{};
  std::string_view schema, name;  ///< the schema pg_catalog comes as an empty name
  replica_identity identity{};
  std::uint16_t column_count{};
  std::string_view column_bytes;  ///< equal bytes, equal columns

  column_reader columns() const { return column_reader{column_bytes}; }
};

enum class value_kind : char { null = 'n', unchanged = 'u', text = 't', binary = 'b' };
/** One value of a tuple. `unchanged`: a TOASTed value that the update did not touch and the server did not send. */
struct value {
  value_kind kind{value_kind::null};
  std::string_view bytes;
};

/** Steps through values whose bytes decode() has already checked. */
class value_reader {
public:
  value_reader() = default;
  explicit value_reader(std::string_view checked) : rest_{checked} {}
  /** The next value; nullopt after the last. */
  std::optional<value> next();

private:
  std::string_view rest_;
};

struct tuple {
  std::uint16_t count{};
  std::string_view bytes;
  value_reader values() const { return value_reader{bytes}; }
};

/**
 * What is known of the old row: nothing, its key columns (the others come as NULL and mean nothing), or all of it. Of a row of a
 * partition that comes as its root's this goes by the root's identity, and what is there by the partition's own.
 */
enum class old_row : char { none = 0, key = 'K', full = 'O' };

struct insert {
  std::uint32_t relation{};
  tuple row;
};
struct update {
  std::uint32_t relation{};
  old_row old_kind{old_row::none};
  tuple old;
  tuple row;
};
struct delete_ {
  std::uint32_t relation{};
  old_row old_kind{old_row::key};
  tuple old;
};

/** Steps through the relations of a truncate. */
class oid_reader {
public:
  oid_reader() = default;
  explicit oid_reader(std::string_view checked) : rest_{checked} {}
  std::optional<std::uint32_t> next();

private:
  std::string_view rest_;
};
struct truncate {
  std::uint32_t count{};
  bool cascade{};
  bool restart_identity{};
  std::string_view oid_bytes;
  oid_reader relations() const { return oid_reader{oid_bytes}; }
};

// Version 2: a large transaction is streamed while it runs, in blocks from stream_start to stream_stop, between which its
// messages carry the id of their (sub)transaction; blocks of several transactions take turns.
struct stream_start {
  std::uint32_t xid{};
  bool first{};  ///< of this transaction's blocks
};
struct stream_stop {};
struct stream_commit {
  std::uint32_t xid{};
  commit at;
};
/** The transaction was rolled back, or (xid != subxid) one of its subtransactions. */
struct stream_abort {
  std::uint32_t xid{};
  std::uint32_t subxid{};
};

using change = std::variant<begin, commit, message, insert, update, delete_, relation, truncate, type, origin, stream_start, stream_stop,
                            stream_commit, stream_abort>;

/**
 * Decodes one message that does not stand within a streamed block. The frames of two-phase transactions, which we do not
 * ask for, are refused by name.
 */
result<change> decode(std::string_view payload);
result<change> decode(std::string&& dies_before_the_change) = delete;

/** Whether a message outside of a block is about streamed transactions: stream_start, stream_stop, stream_commit, stream_abort. */
inline bool is_streamed(std::string_view payload) { return !payload.empty() && std::string_view{"SEcA"}.contains(payload.front()); }

/** A message within a streamed block: of `xid`, and, put together again, what decode() takes: `tag`, then `body`. */
struct streamed_message {
  std::uint32_t xid{};
  char tag{};
  std::string_view body;
};
/** nullopt: the block ends here. The body is not looked into. */
result<std::optional<streamed_message>> decode_streamed(std::string_view payload);

}  // namespace postbus::postgres::pgoutput
