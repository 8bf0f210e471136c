#include "postgres/pgoutput.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <string>

namespace postbus::postgres::pgoutput {
namespace {

/** Keeps bytes for the whole run: what is decoded points into them. */
std::string_view keep(std::string made) {
  static std::deque<std::string> kept;
  return kept.emplace_back(std::move(made));
}

/** Bytes from hex digits; blanks are for the reader. */
std::string_view bytes(std::string_view hex) {
  std::string out;
  int high = -1;
  for (const char c : hex) {
    if (c == ' ') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      out += static_cast<char>(high * 16 + digit);
      high = -1;
    }
  }
  return keep(std::move(out));
}

template <class Wanted>
Wanted get(std::string_view payload) {
  auto decoded = decode(payload);
  EXPECT_TRUE(decoded.has_value()) << (decoded.has_error() ? decoded.error().detail : "");
  EXPECT_TRUE(std::holds_alternative<Wanted>(decoded.value()));
  return std::get<Wanted>(decoded.value());
}

// Recorded from PostgreSQL 15.20 (pg_logical_slot_get_binary_changes):
//   create table orders(id int primary key, email text, total bigint);
//   begin; insert into orders values (1,'a@b',5); select pg_logical_emit_message(true,'postbus:t:orders','hello'); commit;
//   update orders set id=2 where id=1; delete from orders; truncate orders;
const auto recorded_begin = bytes("420000000001947d28000303d327acd070000002d7");
const auto recorded_relation = bytes(
    "52000040017075626c6963006f7264657273006400030169640000000017ffffffff00656d61696c0000000019ffffffff00746f74616c0000000014ffffffff");
const auto recorded_insert = bytes("49000040014e00037400000001317400000003614062740000000135");
const auto recorded_message = bytes("4d010000000001947d28706f73746275733a743a6f7264657273000000000568656c6c6f");
const auto recorded_commit = bytes("43000000000001947d280000000001947d58000303d327acd070");
const auto recorded_update = bytes("55000040014b00037400000001316e6e4e00037400000001327400000003614062740000000135");
const auto recorded_delete = bytes("44000040014b00037400000001326e6e");
const auto recorded_truncate = bytes("54000000010000004001");

TEST(pgoutput, begin_and_commit) {
  const auto b = get<begin>(recorded_begin);
  EXPECT_EQ(b.final_lsn, 0x1947d28u);
  EXPECT_EQ(b.xid, 0x2d7u);
  EXPECT_EQ(b.commit_time, 0x303d327acd070 + postgres_epoch_micros);
  const auto c = get<commit>(recorded_commit);
  EXPECT_EQ(c.commit_lsn, b.final_lsn);
  EXPECT_EQ(c.end_lsn, 0x1947d58u);
  EXPECT_EQ(c.commit_time, b.commit_time);
}

TEST(pgoutput, message) {
  const auto m = get<message>(recorded_message);
  EXPECT_TRUE(m.transactional);
  EXPECT_EQ(m.lsn, 0x1947d28u);
  EXPECT_EQ(m.prefix, "postbus:t:orders");
  EXPECT_EQ(m.content, "hello");
}

TEST(pgoutput, relation_and_its_columns) {
  const auto r = get<relation>(recorded_relation);
  EXPECT_EQ(r.oid, 0x4001u);
  EXPECT_EQ(r.schema, "public");
  EXPECT_EQ(r.name, "orders");
  EXPECT_EQ(r.identity, replica_identity::default_);
  ASSERT_EQ(r.column_count, 3);
  auto columns = r.columns();
  const auto id = columns.next().value();
  EXPECT_TRUE(id.key);
  EXPECT_EQ(id.name, "id");
  EXPECT_EQ(id.type_oid, 23u);
  EXPECT_EQ(id.type_modifier, -1);
  const auto email = columns.next().value();
  EXPECT_FALSE(email.key);
  EXPECT_EQ(email.name, "email");
  EXPECT_EQ(columns.next().value().type_oid, 20u);
  EXPECT_FALSE(columns.next());
}

TEST(pgoutput, insert) {
  const auto i = get<insert>(recorded_insert);
  EXPECT_EQ(i.relation, 0x4001u);
  ASSERT_EQ(i.row.count, 3);
  auto values = i.row.values();
  EXPECT_EQ(values.next().value().bytes, "1");
  EXPECT_EQ(values.next().value().bytes, "a@b");
  EXPECT_EQ(values.next().value().bytes, "5");
  EXPECT_FALSE(values.next());
}

TEST(pgoutput, update_of_a_key_delete_and_truncate) {
  const auto u = get<update>(recorded_update);
  EXPECT_EQ(u.relation, 0x4001u);
  EXPECT_EQ(u.old_kind, old_row::key);
  EXPECT_EQ(u.old.count, 3);
  EXPECT_EQ(u.old.values().next()->bytes, "1");
  EXPECT_EQ(u.row.values().next()->bytes, "2");
  const auto d = get<delete_>(recorded_delete);
  EXPECT_EQ(d.old_kind, old_row::key);
  EXPECT_EQ(d.old.values().next()->bytes, "2");
  const auto t = get<truncate>(recorded_truncate);
  EXPECT_FALSE(t.cascade);
  EXPECT_EQ(t.relations().next(), 0x4001u);
}

TEST(pgoutput, update_with_old_key_null_unchanged_and_binary) {
  const auto u = get<update>(bytes("55 00004002 4b 0002 74 00000001 31 6e  4e 0004 74 00000001 32 75 6e 62 00000002 0102"));
  EXPECT_EQ(u.old_kind, old_row::key);
  auto old = u.old.values();
  EXPECT_EQ(old.next().value().bytes, "1");
  EXPECT_EQ(old.next().value().kind, value_kind::null);
  EXPECT_FALSE(old.next());
  auto row = u.row.values();
  EXPECT_EQ(row.next().value().bytes, "2");
  EXPECT_EQ(row.next().value().kind, value_kind::unchanged);
  EXPECT_EQ(row.next().value().kind, value_kind::null);
  const auto binary = row.next().value();
  EXPECT_EQ(binary.kind, value_kind::binary);
  EXPECT_EQ(binary.bytes, bytes("0102"));
  EXPECT_FALSE(row.next());
}

TEST(pgoutput, update_without_and_with_the_whole_old_row) {
  const auto plain = get<update>(bytes("55 00004002 4e 0001 74 00000001 32"));
  EXPECT_EQ(plain.old_kind, old_row::none);
  EXPECT_EQ(plain.row.count, 1);
  const auto full = get<update>(bytes("55 00004002 4f 0001 74 00000001 31 4e 0001 74 00000001 32"));
  EXPECT_EQ(full.old_kind, old_row::full);
  EXPECT_EQ(full.old.values().next()->bytes, "1");
  EXPECT_EQ(full.row.values().next()->bytes, "2");
}

TEST(pgoutput, delete_by_key_and_with_the_whole_row) {
  const auto key = get<delete_>(bytes("44 00004002 4b 0001 74 00000001 31"));
  EXPECT_EQ(key.old_kind, old_row::key);
  EXPECT_EQ(key.old.values().next()->bytes, "1");
  EXPECT_EQ(get<delete_>(bytes("44 00004002 4f 0001 6e")).old_kind, old_row::full);
}

TEST(pgoutput, truncate_type_and_origin) {
  const auto t = get<truncate>(bytes("54 00000002 03 00004002 00004003"));
  EXPECT_TRUE(t.cascade);
  EXPECT_TRUE(t.restart_identity);
  auto oids = t.relations();
  EXPECT_EQ(oids.next(), 0x4002u);
  EXPECT_EQ(oids.next(), 0x4003u);
  EXPECT_FALSE(oids.next());
  const auto y = get<type>(bytes("59 00004010 7075626c696300 6d6f6f6400"));
  EXPECT_EQ(y.oid, 0x4010u);
  EXPECT_EQ(y.schema, "public");
  EXPECT_EQ(y.name, "mood");
  const auto o = get<origin>(bytes("4f 0000000000000010 6e6f646500"));
  EXPECT_EQ(o.lsn, 0x10u);
  EXPECT_EQ(o.name, "node");
}

TEST(pgoutput, frames) {
  const auto data = decode_frame(bytes("77 0000000001557158 0000000001557160 0002dc1a4b9c5d33 4243"));
  const auto& w = std::get<xlog_data>(data.value());
  EXPECT_EQ(w.wal_start, 0x1557158u);
  EXPECT_EQ(w.wal_end, 0x1557160u);
  EXPECT_EQ(w.sent, 0x2dc1a4b9c5d33 + postgres_epoch_micros);
  EXPECT_EQ(w.payload, "BC");
  const auto alive = decode_frame(bytes("6b 0000000001557158 0002dc1a4b9c5d33 01"));
  const auto& k = std::get<keepalive>(alive.value());
  EXPECT_EQ(k.wal_end, 0x1557158u);
  EXPECT_TRUE(k.reply_requested);
  for (const auto* bad : {"", "77", "77 00", "6b 0000000001557158 0002dc1a4b9c5d33", "6b 0000000001557158 0002dc1a4b9c5d33 0100", "78 00"})
    EXPECT_EQ(decode_frame(bytes(bad)).error().code, errc::protocol) << bad;
}

TEST(pgoutput, every_truncation_and_every_extra_byte_is_refused) {
  for (const auto whole : {recorded_begin, recorded_relation, recorded_insert, recorded_message, recorded_commit, recorded_update,
                           recorded_delete, recorded_truncate}) {
    ASSERT_TRUE(decode(whole).has_value());
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_EQ(decode(whole.substr(0, size)).error().code, errc::protocol) << whole[0] << size;
    EXPECT_EQ(decode(keep(std::string{whole} + '\0')).error().code, errc::protocol) << whole[0];
  }
}

TEST(pgoutput, lengths_are_not_believed) {
  for (const auto* bad :
       {"49 00004002 4e 0001 74 7fffffff 31", "49 00004002 4e 0001 74 ffffffff 31", "49 00004002 4e ffff 6e", "49 00004002 4e 0001 78",
        "49 00004002 58 0001 6e", "4d 01 0000000001557128 7000 ffffffff 68", "54 ffffffff 00 00004002", "54 40000001 00 00004002",
        "52 00004002 7000 6f00 64 ffff 01 696400 00000017 ffffffff", "52 00004002 7000 6f00 7a 0000", "44 00004002 4e 0001 6e"})
    EXPECT_EQ(decode(bytes(bad)).error().code, errc::protocol) << bad;
}

TEST(pgoutput, streamed_transactions) {
  const auto start = std::get<stream_start>(decode(bytes("53 000002e4 01")).value());
  EXPECT_EQ(start.xid, 740u);
  EXPECT_TRUE(start.first);
  EXPECT_TRUE(std::holds_alternative<stream_stop>(decode(bytes("45")).value()));
  const auto end = std::get<stream_commit>(decode(bytes("63 000002e4 00 0000000001557128 0000000001557158 0000000000000001")).value());
  EXPECT_EQ(end.xid, 740u);
  EXPECT_EQ(end.at.commit_lsn, 0x1557128u);
  EXPECT_EQ(end.at.end_lsn, 0x1557158u);
  EXPECT_EQ(end.at.commit_time, postgres_epoch_micros + 1);
  const auto undone = std::get<stream_abort>(decode(bytes("41 000002e4 000002e5")).value());
  EXPECT_EQ(undone.xid, 740u);
  EXPECT_EQ(undone.subxid, 741u);
  for (const auto* whole :
       {"53 000002e4 01", "45", "63 000002e4 00 0000000001557128 0000000001557158 0000000000000001", "41 000002e4 000002e5"}) {
    const auto all = bytes(whole);
    for (std::size_t size = 0; size < all.size(); ++size)
      EXPECT_EQ(decode(all.substr(0, size)).error().code, errc::protocol) << whole << size;
    EXPECT_EQ(decode(keep(std::string{all} + '\0')).error().code, errc::protocol) << whole;
  }
}

TEST(pgoutput, messages_within_a_streamed_block) {
  const auto within = decode_streamed(bytes("49 000002e5 00004002 4e 0001 6e")).value();
  ASSERT_TRUE(within);
  EXPECT_EQ(within->xid, 741u);
  EXPECT_EQ(std::get<insert>(decode(keep(within->tag + std::string{within->body})).value()).relation, 0x4002u);
  EXPECT_FALSE(decode_streamed(bytes("45")).value());
  for (const auto* bad : {"", "49", "49 000002", "42 000002e5 00", "53 000002e5 00", "45 00", "63 000002e5"})
    EXPECT_EQ(decode_streamed(bytes(bad)).error().code, errc::protocol) << bad;
}

TEST(pgoutput, what_was_not_asked_for_is_refused_by_name) {
  for (const char tag : {'b', 'P', 'K', 'r', 'p'})
    EXPECT_NE(decode(keep(std::string(1, tag))).error().detail.find("two-phase"), std::string::npos);
  EXPECT_EQ(decode(bytes("3f")).error().code, errc::protocol);
}

}  // namespace
}  // namespace postbus::postgres::pgoutput
