// The decoder of a logical replication stream.
//
// 1. decode_frame takes the content of a CopyData message: 'k' is a keep-alive, 'w' wraps one message of pgoutput.
// 2. decode reads the message's tag and fixed part. Columns, values and oids stay where they are: their bytes are
//    stepped through once, to check every length against what is there, and kept as a view.
// 3. The readers step through those checked bytes again and need no further checks.
//
// Not done here: what a relation id stands for (the stream tells relations once, the caller keeps them), the order of
// messages (that a row stands between begin and commit), the meaning of a value's text.
#include "postgres/pgoutput.hpp"

#include "base/bytes.hpp"

namespace postbus::postgres::pgoutput {
namespace {

error broken(std::string_view what) {
  return {errc::protocol, "the replication stream is broken; the connection will be made anew", "pgoutput: " + std::string{what}};
}

/** Reads from untrusted bytes; the first missing byte makes `ok` false for good. */
class checked {
public:
  explicit checked(std::string_view bytes) : reader_{bytes} {}

  template <class Int>
  Int big() {
    const auto value = reader_.big<Int>();
    ok_ = ok_ && value.has_value();
    return value.value_or(Int{});
  }
  std::string_view c_string() {
    const auto value = reader_.c_string();
    ok_ = ok_ && value.has_value();
    return value.value_or(std::string_view{});
  }
  std::string_view bytes(std::size_t count) {
    const auto value = reader_.bytes(count);
    ok_ = ok_ && value.has_value();
    return value.value_or(std::string_view{});
  }
  unix_micros time() {
    // The sum may wrap for a hostile value; unsigned arithmetic makes that harmless.
    return static_cast<unix_micros>(big<std::uint64_t>() + static_cast<std::uint64_t>(postgres_epoch_micros));
  }
  /** Checks a tuple's values and keeps their bytes. */
  tuple row() {
    tuple made;
    made.count = big<std::uint16_t>();
    const auto start = reader_.rest();
    for (unsigned i = 0; ok_ && i < made.count; ++i) {
      switch (big<char>()) {
        case 'n':
        case 'u': break;
        case 't':
        case 'b': {
          const auto length = big<std::int32_t>();
          if (length < 0) ok_ = false;
          if (ok_) bytes(static_cast<std::size_t>(length));
          break;
        }
        default: ok_ = false;
      }
    }
    if (ok_) made.bytes = start.substr(0, start.size() - reader_.rest().size());
    return made;
  }
  std::string_view rest() const { return reader_.rest(); }
  bool ok() const { return ok_; }
  /** Everything was there and nothing is left over. */
  bool complete() const { return ok_ && reader_.rest().empty(); }
  void fail() { ok_ = false; }

private:
  byte_reader reader_;
  bool ok_{true};
};

result<change> decode_relation(checked& in) {
  relation made;
  made.oid = in.big<std::uint32_t>();
  made.schema = in.c_string();
  made.name = in.c_string();
  const char identity = in.big<char>();
  if (identity != 'd' && identity != 'n' && identity != 'f' && identity != 'i') in.fail();
  made.identity = static_cast<replica_identity>(identity);
  made.column_count = in.big<std::uint16_t>();
  const auto start = in.rest();
  for (unsigned i = 0; in.ok() && i < made.column_count; ++i) {
    in.big<std::uint8_t>();
    in.c_string();
    in.big<std::uint32_t>();
    in.big<std::int32_t>();
  }
  if (!in.complete()) return broken("bad relation message");
  made.column_bytes = start;
  return change{made};
}

result<change> decode_update(checked& in) {
  update made;
  made.relation = in.big<std::uint32_t>();
  char tag = in.big<char>();
  if (tag == 'K' || tag == 'O') {
    made.old_kind = static_cast<old_row>(tag);
    made.old = in.row();
    tag = in.big<char>();
  }
  if (tag != 'N') in.fail();
  made.row = in.row();
  if (!in.complete()) return broken("bad update message");
  return change{made};
}

result<change> decode_truncate(checked& in) {
  truncate made;
  made.count = in.big<std::uint32_t>();
  const auto flags = in.big<std::uint8_t>();
  made.cascade = (flags & 1) != 0;
  made.restart_identity = (flags & 2) != 0;
  made.oid_bytes = in.rest();
  if (!in.ok() || made.oid_bytes.size() != std::size_t{made.count} * 4) return broken("bad truncate message");
  return change{made};
}

}  // namespace

std::optional<column> column_reader::next() {
  if (rest_.empty()) return std::nullopt;
  byte_reader in{rest_};
  column made;
  made.key = (*in.big<std::uint8_t>() & 1) != 0;
  made.name = *in.c_string();
  made.type_oid = *in.big<std::uint32_t>();
  made.type_modifier = *in.big<std::int32_t>();
  rest_ = in.rest();
  return made;
}

std::optional<value> value_reader::next() {
  if (rest_.empty()) return std::nullopt;
  value made{static_cast<value_kind>(rest_.front()), {}};
  rest_.remove_prefix(1);
  if (made.kind == value_kind::text || made.kind == value_kind::binary) {
    const auto length = load_big<std::uint32_t>(rest_.data());
    made.bytes = rest_.substr(4, length);
    rest_.remove_prefix(4 + std::size_t{length});
  }
  return made;
}

std::optional<std::uint32_t> oid_reader::next() {
  if (rest_.empty()) return std::nullopt;
  const auto oid = load_big<std::uint32_t>(rest_.data());
  rest_.remove_prefix(4);
  return oid;
}

result<frame> decode_frame(std::string_view bytes) {
  checked in{bytes};
  switch (in.big<char>()) {
    case 'w': {
      xlog_data made;
      made.wal_start = in.big<std::uint64_t>();
      made.wal_end = in.big<std::uint64_t>();
      made.sent = in.time();
      made.payload = in.rest();
      if (!in.ok()) return broken("short XLogData frame");
      return frame{made};
    }
    case 'k': {
      keepalive made;
      made.wal_end = in.big<std::uint64_t>();
      made.sent = in.time();
      made.reply_requested = in.big<std::uint8_t>() != 0;
      if (!in.complete()) return broken("bad keep-alive frame");
      return frame{made};
    }
    default: return broken("unknown kind of frame");
  }
}

result<change> decode(std::string_view payload) {
  checked in{payload};
  const char tag = in.big<char>();
  switch (tag) {
    case 'M': {
      message made;
      made.transactional = (in.big<std::uint8_t>() & 1) != 0;
      made.lsn = in.big<std::uint64_t>();
      made.prefix = in.c_string();
      const auto length = in.big<std::uint32_t>();
      made.content = in.bytes(length);
      if (!in.complete()) return broken("bad logical message");
      return change{made};
    }
    case 'B': {
      begin made;
      made.final_lsn = in.big<std::uint64_t>();
      made.commit_time = in.time();
      made.xid = in.big<std::uint32_t>();
      if (!in.complete()) return broken("bad begin message");
      return change{made};
    }
    case 'C': {
      commit made;
      in.big<std::uint8_t>();  // flags, unused
      made.commit_lsn = in.big<std::uint64_t>();
      made.end_lsn = in.big<std::uint64_t>();
      made.commit_time = in.time();
      if (!in.complete()) return broken("bad commit message");
      return change{made};
    }
    case 'I': {
      insert made;
      made.relation = in.big<std::uint32_t>();
      if (in.big<char>() != 'N') in.fail();
      made.row = in.row();
      if (!in.complete()) return broken("bad insert message");
      return change{made};
    }
    case 'U': return decode_update(in);
    case 'D': {
      delete_ made;
      made.relation = in.big<std::uint32_t>();
      const char kind = in.big<char>();
      if (kind != 'K' && kind != 'O') in.fail();
      made.old_kind = static_cast<old_row>(kind);
      made.old = in.row();
      if (!in.complete()) return broken("bad delete message");
      return change{made};
    }
    case 'R': return decode_relation(in);
    case 'T': return decode_truncate(in);
    case 'Y': {
      type made;
      made.oid = in.big<std::uint32_t>();
      made.schema = in.c_string();
      made.name = in.c_string();
      if (!in.complete()) return broken("bad type message");
      return change{made};
    }
    case 'O': {
      origin made;
      made.lsn = in.big<std::uint64_t>();
      made.name = in.c_string();
      if (!in.complete()) return broken("bad origin message");
      return change{made};
    }
    case 'S': {
      stream_start made;
      made.xid = in.big<std::uint32_t>();
      made.first = in.big<std::uint8_t>() != 0;
      if (!in.complete()) return broken("bad stream start message");
      return change{made};
    }
    case 'E':
      if (!in.complete()) return broken("bad stream stop message");
      return change{stream_stop{}};
    case 'c': {
      stream_commit made;
      made.xid = in.big<std::uint32_t>();
      in.big<std::uint8_t>();  // flags, unused
      made.at.commit_lsn = in.big<std::uint64_t>();
      made.at.end_lsn = in.big<std::uint64_t>();
      made.at.commit_time = in.time();
      if (!in.complete()) return broken("bad stream commit message");
      return change{made};
    }
    case 'A': {
      stream_abort made;
      made.xid = in.big<std::uint32_t>();
      made.subxid = in.big<std::uint32_t>();
      if (!in.complete()) return broken("bad stream abort message");
      return change{made};
    }
    case 'b':
    case 'P':
    case 'K':
    case 'r':
    case 'p': return broken("a two-phase transaction message, which was not asked for");
    default: return broken("unknown kind of message");
  }
}

result<std::optional<streamed_message>> decode_streamed(std::string_view payload) {
  checked in{payload};
  streamed_message made;
  made.tag = in.big<char>();
  if (in.ok() && made.tag == 'E') {
    if (!in.complete()) return broken("bad stream stop message");
    return std::optional<streamed_message>{};
  }
  if (!std::string_view{"RYIUDTM"}.contains(made.tag)) return broken("a message that cannot stand within a streamed block");
  made.xid = in.big<std::uint32_t>();
  made.body = in.rest();
  if (!in.ok()) return broken("short message within a streamed block");
  return std::optional{made};
}

}  // namespace postbus::postgres::pgoutput
