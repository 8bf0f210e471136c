#include "random_workload.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace postbus::testing_support {
namespace {

const std::vector<std::string> tables{"plain", "whole", "by_index", "parts", R"("Odd ""table. x")"};

const char* const schema = R"sql(
create type mood as enum ('sad', 'so "so"');
create domain cents as numeric check (value is null or value > -1000000);
create table plain(id int primary key, n numeric, t text, big text, j json, jb jsonb, by bytea, tz timestamptz, ts timestamp, d date,
  a int[], ta text[], b bool, f float8, u uuid, m mood, c cents, v varchar(40), i interval, r int4range, s smallint, l bigint);
create table whole(like plain including all);
create table by_index(n int, id int not null, k text not null, t text, big text, unique (id, k));
create table parts(id int, region int, t text, big text, primary key (id, region)) partition by list (region);
create table parts_0 partition of parts for values in (0);
create table parts_1(dropped int, big text, t text, region int not null, id int not null, primary key (id, region));
alter table parts_1 drop dropped;
alter table parts attach partition parts_1 for values in (1);
create table parts_rest partition of parts default partition by range (id);
create table parts_rest_low partition of parts_rest for values from (minvalue) to (200);
create table parts_rest_high partition of parts_rest for values from (200) to (maxvalue);
create table "Odd ""table. x"(id int primary key, "a]: b'c" text, "new-tuple:" int, "null" text);
create table unwatched(id int);
alter table plain alter big set storage external;
alter table whole alter big set storage external, replica identity full;
alter table by_index alter big set storage external, replica identity using index by_index_id_k_key;
alter table parts_0 alter big set storage external;
alter table parts_1 alter big set storage external;
select postbus.watch('plain'), postbus.watch('whole'), postbus.watch('by_index'), postbus.watch('parts'), postbus.watch('"Odd ""table. x"');
select postbus.create_stream('kept');
)sql";

/** Values that a type is hard on. */
const std::map<std::string, std::vector<const char*>> values{
    {"integer", {"0", "-1", "2147483647", "-2147483648", "17"}},
    {"smallint", {"-32768", "32767", "5"}},
    {"bigint", {"9223372036854775807", "-9223372036854775808", "42"}},
    {"numeric", {"0.10", "-1e5", "123456789012345678901234567890.1234567890", "NaN", "1e-20"}},
    {"cents", {"0.01", "100", "-5.50"}},
    {"text",
     {"", "it's", "a\\b", "naïve ☃ 😀", "line\nbreak\ttab", "\"quoted\"", "\x01\x1f\x7f", "null", "unchanged-toast-datum", " x ",
      "{\"a\":1}"}},
    {"character varying", {"", "plain", "O'Neil\\", "ß"}},
    {"json", {R"({"a" : [1, 2.50, null], "b":"ü\u0041"})", " [ ] ", "\"text\"", "null", "1e5"}},
    {"jsonb", {R"({"b": {"c": "\"}"}, "a": [1, 2.50, true]})", "{}", "\"te,xt\"", "null"}},
    {"bytea", {"\\x", "\\x00ff27225c", "\\xdeadbeef"}},
    {"timestamp with time zone", {"2026-11-25 18:00:00.123456+05:45", "infinity", "-infinity", "1969-12-31 23:59:59Z", "0044-03-15 BC"}},
    {"timestamp without time zone", {"2026-02-28 23:59:59.999999", "infinity", "0001-01-01"}},
    {"date", {"2026-02-28", "-infinity", "0044-03-15 BC", "12026-01-01"}},
    {"integer[]", {"{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}"}},
    {"text[]", {R"({"a b","c\"d",NULL,"NULL",""})", "{}", R"({{a,b},{"]:","}"}})"}},
    {"boolean", {"t", "f"}},
    {"double precision", {"0.1", "NaN", "-Infinity", "1e-300", "-0"}},
    {"uuid", {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}},
    {"mood", {"sad", "so \"so\""}},
    {"interval", {"1 mon -2 days 03:04:05.6", "0"}},
    {"int4range", {"empty", "[1,5)", "(,)"}},
};

constexpr std::array retypes{"text using {0}::text", "jsonb using to_jsonb({0})", "integer using length({0}::text)",
                             "text[] using array[{0}::text]"};

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "''" : std::string{c};
  return out + '\'';
}

}  // namespace

random_workload::random_workload(const database& db, unsigned seed) : random_{seed} {
  db.psql(schema);
  for (int i = 0; i < 4; ++i) {
    auto& w = writers_.emplace_back();
    w.to = std::make_unique<session>(db.url());
    w.to->psql("set lock_timeout = '1ms'; set client_min_messages = error");
  }
}

std::vector<std::string> random_workload::channels() {
  std::vector<std::string> all{"news", "Ä]: x", "kept", "table:public.unwatched", "table:public.Odd \"table. x"};
  for (const auto* table : {"plain", "whole", "by_index", "parts", "parts_0", "parts_1", "parts_rest", "parts_rest_low", "parts_rest_high"})
    all.push_back(fmt::format("table:public.{}", table));
  return all;
}

std::string random_workload::feed_of(std::string_view table) {
  if (table.starts_with("public.parts_")) return "public.parts";
  if (table == "public.unwatched" || !table.starts_with("public.")) return {};
  return std::string{table};
}

/** Sends it; one that is refused undoes its transaction, so that all goes on. */
bool random_workload::run(writer& w, std::string_view what, const std::string& sql) {
  const auto why = w.to->refused(sql);
  if (why.state.empty()) {
    ++done_[std::string{what}];
    return true;
  }
  ++done_["refused " + why.state];
  w.to->refused("rollback");
  w.open = false;
  w.savepoints.clear();
  return false;
}

void random_workload::step() {
  auto& w = writers_[below(writers_.size())];
  if (one_in(12)) settle_prepared();
  if (!w.open) {
    w.open = !one_in(6);  // else the statement is a transaction of its own
    if (w.open) w.to->psql("begin");
  } else if (one_in(7)) {
    return end(w);
  }
  if (w.open && one_in(6)) {
    const auto name = fmt::format("s{}", ++names_);
    if (run(w, "savepoint", "savepoint " + name)) w.savepoints.push_back(name);
    return;
  }
  if (!w.savepoints.empty() && one_in(5)) {
    const auto which = below(w.savepoints.size());
    const bool undo = one_in(2);
    run(w, undo ? "rollback to" : "release", (undo ? "rollback to " : "release ") + w.savepoints[which]);
    w.savepoints.resize(std::min(w.savepoints.size(), which + (undo ? 1 : 0)));
    return;
  }
  std::string what;
  const auto sql = change(w, what);
  run(w, what, sql);
}

void random_workload::end(writer& w) {
  if (one_in(8)) {
    const auto name = fmt::format("p{}", ++names_);
    if (run(w, "prepare", fmt::format("prepare transaction '{}'", name))) prepared_.push_back(name);
  } else if (one_in(6)) {
    run(w, "rollback", "rollback");
  } else {
    run(w, "commit", "commit");
  }
  w.open = false;
  w.savepoints.clear();
}

void random_workload::settle_prepared() {
  const auto free = std::ranges::find(writers_, false, &writer::open);
  if (prepared_.empty() || free == writers_.end()) return;
  const bool undo = one_in(4);
  run(*free, undo ? "rollback prepared" : "commit prepared",
      fmt::format("{} prepared '{}'", undo ? "rollback" : "commit", prepared_.front()));
  prepared_.erase(prepared_.begin());
}

void random_workload::settle() {
  for (auto& w : writers_)
    if (w.open) end(w);
  while (!prepared_.empty()) settle_prepared();
}

const std::string& random_workload::some_table() { return tables[below(tables.size())]; }

std::string random_workload::literal(const column& c) {
  if (!c.required && one_in(8)) return "null";
  if (c.name == "id") return some_id();
  if (c.name == "region") return std::to_string(below(4));
  if (c.name == "big" && !one_in(3)) return fmt::format("repeat({}, {})", in_quotes(one_in(2) ? "x" : "é\""), 1500 + below(3000));
  const auto known = values.find(c.type);
  if (known == values.end()) return "null";
  if (c.type == "integer" && one_in(2)) return std::to_string(below(1000));
  return in_quotes(known->second[below(known->second.size())]);
}

/** The table's columns as this transaction sees them. */
std::vector<random_workload::column> random_workload::columns_of(writer& w, const std::string& table) {
  const auto all = w.to->psql(fmt::format(
      "select string_agg(attname || E'\\x02' || atttypid::regtype || E'\\x02' || attnotnull, E'\\x03' order by attnum) from pg_attribute "
      "where attrelid = {}::regclass and attnum > 0 and not attisdropped",
      in_quotes(table)));
  std::vector<column> found;
  for (std::size_t at = 0; at <= all.size();) {
    const auto end = std::min(all.find('\x03', at), all.size());
    const auto one = all.substr(at, end - at);
    const auto type = one.find('\x02'), required = one.rfind('\x02');
    found.push_back({one.substr(0, type), one.substr(type + 1, required - type - 1), one.substr(required + 1) == "true"});
    at = end + 1;
  }
  return found;
}

std::string name_of(const std::string& column) { return '"' + column + '"'; }

std::string random_workload::insert(writer& w, const std::string& table, std::size_t rows) {
  const auto columns = columns_of(w, table);
  std::string sql = fmt::format("insert into {} (", table);
  for (const auto& c : columns) sql += (&c == columns.data() ? "" : ", ") + name_of(c.name);
  sql += ") values ";
  for (std::size_t i = 0; i < rows; ++i) {
    sql += i == 0 ? "(" : ", (";
    for (const auto& c : columns) sql += (&c == columns.data() ? "" : ", ") + literal(c);
    sql += ')';
  }
  return sql + " on conflict do nothing";
}

std::string random_workload::update(writer& w, const std::string& table) {
  const auto columns = columns_of(w, table);
  std::string sql = fmt::format("update {} set ", table);
  const auto first = below(columns.size());
  std::string between;
  for (const auto& c : columns) {
    if (&c != &columns[first] && !one_in(columns.size())) continue;
    // A key that is taken already would cost the whole transaction.
    const auto to = c.name == "id" ? fmt::format("id + {}", 1000 * (1 + below(100))) : literal(c);
    sql += std::exchange(between, ", ") + fmt::format("{} = {}", name_of(c.name), to);
  }
  const auto from = below(400);
  return sql + fmt::format(" where id between {} and {}", from, from + below(12));
}

std::string random_workload::alter(writer& w, const std::string& table) {
  std::vector<column> extra;  // the columns that may come and go
  for (auto& c : columns_of(w, table))
    if (c.name.starts_with("x")) extra.push_back(std::move(c));
  if (extra.size() < 2 || (extra.size() < 6 && one_in(3))) {
    auto type = values.begin();
    std::advance(type, below(values.size()));
    return fmt::format("alter table {} add x{} {} default {}", table, ++names_, type->first, literal({"x", type->first, false}));
  }
  const auto name = name_of(extra[below(extra.size())].name);
  switch (below(4)) {
    case 0: return fmt::format("alter table {} drop {}", table, name);
    case 1: return fmt::format("alter table {} rename {} to x{}", table, name, ++names_);
    case 2: return fmt::format("alter table {} drop {}, add {} text default 'made anew'", table, name, name);
    default:
      return fmt::format("alter table {0} alter {1} drop default, alter {1} type {2}", table, name,
                         fmt::format(fmt::runtime(retypes[below(retypes.size())]), name));
  }
}

std::string random_workload::post() {
  static constexpr std::array<const char*, 3> to{"news", "Ä]: x", "kept"};
  const auto* const channel = to[below(to.size())];
  if (one_in(2)) return fmt::format("select postbus.post('{}', {}::jsonb)", channel, in_quotes(values.at("jsonb")[below(4)]));
  return fmt::format("select postbus.post('{}', {}::text)", channel, in_quotes(values.at("text")[below(11)]));
}

std::string random_workload::change(writer& w, std::string& what) {
  const auto& table = some_table();
  const auto dice = below(100);
  const auto is = [&what](const char* name, std::string sql) {
    what = name;
    return sql;
  };
  if (dice < 35) return is("insert", insert(w, table, 1 + below(6)));
  if (dice < 36)
    return is(
        "many",
        fmt::format("insert into parts select i, i % 4, repeat('m', 100) from generate_series({0}, {0} + 120) i on conflict do nothing",
                    1000 * below(400)));
  if (dice < 65) return is("update", update(w, table));
  if (dice < 69) return is("move", fmt::format("update parts set region = (region + 1) % 4 where id between {0} and {0} + 5", some_id()));
  if (dice < 78) return is("delete", fmt::format("delete from {} where id between {} and {}", table, some_id(), some_id()));
  if (dice < 80) return is("unwatched", fmt::format("insert into unwatched values ({})", some_id()));
  if (dice < 90) return is("post", post());
  if (dice < 97) return is("alter", alter(w, table));
  if (dice < 99) return is("truncate", fmt::format("truncate {}", table));
  return is("truncate several", one_in(2) ? "truncate plain, whole, unwatched" : "truncate parts, by_index restart identity cascade");
}

}  // namespace postbus::testing_support
