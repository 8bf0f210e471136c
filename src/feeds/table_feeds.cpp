// One change's life here. The stream tells a relation before its first row: its columns are matched with the watched
// table's options, and types that are not PostgreSQL's own are looked up before the row is written (`resolve`; the
// stream waits, once per relation). A row becomes
//
//   {"schema":"public","table":"orders","action":"UPDATE","data":{…},"old":{…},"unchanged":[…],"xid":42}
//
// `data` is the new row, of a DELETE what is known of the old one: its key, or all of it under REPLICA IDENTITY FULL.
// `old` stands where the server sent it: the old key when an update changed it, the whole old row under FULL. A TOASTed
// value that an update did not touch is not in the WAL: it is filled in from the old row where that is known, else the
// column is left out of `data` and named in `unchanged`. Columns that `watch` was not given never appear.
//
// The part from "table" to the end of `data` is what the mirror sends to a plain channel, braces around it.
//
// Options follow the stream: postbus.watch writes the message postbus:watched into its transaction, and the list is
// read anew when that message comes, as seen with that transaction visible: a change is never shown under older options
// than those at its place in the stream, but may be under newer ones when the reader is behind. A relation that is published and not in
// the list (unwatched meanwhile, or published by hand) has no feed.
#include "feeds/table_feeds.hpp"

#include <algorithm>
#include <charconv>

#include "base/json_text.hpp"
#include "base/log.hpp"
#include "feeds/mirror.hpp"

namespace postbus::feeds {

namespace pgoutput = postgres::pgoutput;

struct table_feeds::column {
  std::string name;
  std::string key_text;  ///< "name": as JSON, with the colon
  oid type_oid{};
  const value_type* type{};
  bool shown{true};
  bool identity{};  ///< part of the replica identity
  bool key{};       ///< what a mirrored event is cut down to
};

struct table_feeds::table {
  oid id{};
  std::string schema, name;
  std::string bytes;  ///< the relation message's columns: equal bytes, equal columns
  pgoutput::replica_identity identity{};
  std::vector<column> columns;
  std::string channel;
  std::string head;  ///< {"schema":…,"table":…,"action":"
  std::size_t table_at{};  ///< where "table" begins in it
  std::string notify;
  bool watched{};
};

/** A mirrored event of the open transaction; its position comes with the commit. */
struct table_feeds::pending {
  std::size_t index;
  std::string channel;
  std::string text;  ///< without the closing brace
  bool truncated;
};

table_feeds::table_feeds(std::unique_ptr<catalog> from, mirror* m) : catalog_{std::move(from)}, mirror_{m} {}
table_feeds::~table_feeds() = default;

void table_feeds::started(int) {
  tables_.clear();
  stale_ = true;
  stale_xid_ = 0;
}

void table_feeds::relation(const pgoutput::relation& r) {
  auto& held = tables_[r.oid];
  const auto schema = r.schema.empty() ? std::string_view{"pg_catalog"} : r.schema;
  if (held && held->schema == schema && held->name == r.name && held->bytes == r.column_bytes && held->identity == r.identity) return;
  held = std::make_unique<table>();
  auto& t = *held;
  t.id = r.oid;
  t.schema = schema;
  t.name = r.name;
  t.bytes = r.column_bytes;
  t.identity = r.identity;
  for (auto columns = r.columns(); const auto c = columns.next();) {
    auto& made = t.columns.emplace_back();
    made.name = c->name;
    append_json_string(made.key_text, c->name);
    made.key_text += ':';
    made.type_oid = c->type_oid;
    made.type = types_.find(c->type_oid);
    made.identity = c->key;
    if (!made.type) unknown_types_.push_back(c->type_oid);
  }
  t.channel = "table:" + t.schema + '.' + t.name;
  t.head = R"({"schema":)";
  append_json_string(t.head, t.schema);
  t.table_at = t.head.size() + 1;
  t.head += R"(,"table":)";
  append_json_string(t.head, t.name);
  t.head += R"(,"action":")";
  const std::scoped_lock lock{guard_};
  apply_options(t);
  if (!t.watched) stale_ = true;
}

/** Finds the table's options in watched_; the lock is held. */
void table_feeds::apply_options(table& t) {
  const auto found = std::ranges::find(watched_, t.id, &watched_table::table);
  t.watched = found != watched_.end();
  if (!t.watched) return;
  t.notify = found->notify;
  const auto listed = [](const auto& names, const std::string& name) { return std::ranges::find(names, name) != names.end(); };
  for (auto& c : t.columns) {
    c.shown = !found->columns || listed(*found->columns, c.name);
    c.key = t.identity == pgoutput::replica_identity::full ? listed(found->primary_key, c.name) : c.identity;
  }
}

boost::asio::awaitable<result<>> table_feeds::resolve() {
  if (stale_) {
    auto all = co_await catalog_->watched(stale_xid_);
    if (!all) co_return all.error();
    stale_ = false;
    stale_xid_ = 0;
    const std::scoped_lock lock{guard_};
    watched_ = std::move(*all);
    for (auto& [id, t] : tables_) apply_options(*t);
  }
  if (!unknown_types_.empty()) {
    auto found = co_await catalog_->types(unknown_types_);
    if (!found) co_return found.error();
    types_.add(*found, unknown_types_);
    unknown_types_.clear();
    for (auto& [id, t] : tables_)
      for (auto& c : t->columns)
        if (!c.type) c.type = types_.find(c.type_oid);
  }
  co_return result<>{};
}

void table_feeds::internal(const changes::transaction& in, std::string_view name, std::string_view) {
  if (name != "watched") return;
  stale_ = true;
  stale_xid_ = in.xid;
}

table_feeds::table* table_feeds::find(std::uint32_t relation) {
  const auto found = tables_.find(relation);
  return found != tables_.end() && found->second->watched ? found->second.get() : nullptr;
}

/** The shown columns of `row` as an object; unchanged ones from `old` or noted in left_out_. `key_only`: `row` holds nothing but the identity. */
void table_feeds::append_row(const table& t, const pgoutput::tuple& row, const pgoutput::tuple* old, bool key_only) {
  json_ += '{';
  bool first = true;
  auto values = row.values();
  auto old_values = old ? old->values() : pgoutput::value_reader{};
  for (const auto& c : t.columns) {
    auto v = values.next();
    const auto before = old ? old_values.next() : std::nullopt;
    if (!v) break;
    if (!c.shown || (key_only && !c.identity)) continue;
    if (v->kind == pgoutput::value_kind::unchanged) {
      if (before && before->kind != pgoutput::value_kind::unchanged) {
        v = before;
      } else {
        left_out_ += left_out_.empty() ? "" : ",";
        left_out_.append(c.key_text, 0, c.key_text.size() - 1);
        continue;
      }
    }
    if (!first) json_ += ',';
    first = false;
    json_ += c.key_text;
    if (v->kind == pgoutput::value_kind::null)
      json_ += "null";
    else
      append_value(json_, *c.type, v->bytes, types_);
  }
  json_ += '}';
}

void table_feeds::open(const table& t, std::string_view action) {
  json_ = t.head;
  json_ += action;
  json_ += R"(","data":)";
  data_at_ = json_.size();
  left_out_.clear();
}

/** Ends the payload behind `data` (and `old`), and adds the event; `key_from` is where a mirrored event finds its key. */
void table_feeds::close(table& t, bus::kind k, const changes::transaction& in, const pgoutput::tuple* key_from, bus::batch& out) {
  if (!left_out_.empty()) {
    json_ += R"(,"unchanged":[)";
    json_ += left_out_;
    json_ += ']';
  }
  json_ += R"(,"xid":)";
  char digits[20];
  json_.append(digits, std::to_chars(digits, digits + sizeof digits, in.xid).ptr);
  json_ += '}';
  out.add(t.channel, k, bus::payload_form::json, json_, {}, in.time);
  if (t.notify.empty() || !mirror_) return;

  pending made{.index = out.events().size() - 1 - in.first_event, .channel = t.notify, .text = "{", .truncated = false};
  made.text.append(json_, t.table_at, data_end_ - t.table_at);
  made.truncated = made.text.size() + 1 > mirror::max_payload;
  if (made.truncated) {
    constexpr std::size_t tail = sizeof R"(,"truncated":true,"position":""})" + bus::position::text_size;
    made.text.resize(1 + data_at_ - t.table_at);
    const auto before_key = made.text.size();
    if (key_from) append_key(made.text, t, *key_from);
    if (made.text.size() + tail > mirror::max_payload) {
      made.text.resize(before_key);
      made.text += "{}";
    }
  }
  pending_.push_back(std::move(made));
}

/** The key columns of `row` as an object. */
void table_feeds::append_key(std::string& out, const table& t, const pgoutput::tuple& row) const {
  out += '{';
  bool first = true;
  auto values = row.values();
  for (const auto& c : t.columns) {
    const auto v = values.next();
    if (!v) break;
    if (!c.key || !c.shown || v->kind == pgoutput::value_kind::unchanged) continue;
    if (!first) out += ',';
    first = false;
    out += c.key_text;
    if (v->kind == pgoutput::value_kind::null)
      out += "null";
    else
      append_value(out, *c.type, v->bytes, types_);
  }
  out += '}';
}

void table_feeds::insert(const changes::transaction& in, const pgoutput::insert& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return;
  open(*t, "INSERT");
  append_row(*t, change.row, nullptr, false);
  data_end_ = json_.size();
  close(*t, bus::kind::insert, in, &change.row, out);
}

void table_feeds::update(const changes::transaction& in, const pgoutput::update& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return;
  open(*t, "UPDATE");
  const bool whole = change.old_kind == pgoutput::old_row::full;
  append_row(*t, change.row, whole ? &change.old : nullptr, false);
  data_end_ = json_.size();
  if (change.old_kind != pgoutput::old_row::none) {
    json_ += R"(,"old":)";
    append_row(*t, change.old, nullptr, !whole);
  }
  close(*t, bus::kind::update, in, &change.row, out);
}

void table_feeds::delete_(const changes::transaction& in, const pgoutput::delete_& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return;
  open(*t, "DELETE");
  append_row(*t, change.old, nullptr, change.old_kind == pgoutput::old_row::key);
  data_end_ = json_.size();
  close(*t, bus::kind::delete_, in, &change.old, out);
}

void table_feeds::truncate(const changes::transaction& in, const pgoutput::truncate& change, bus::batch& out) {
  for (auto relations = change.relations(); const auto id = relations.next();) {
    auto* const t = find(*id);
    if (!t) continue;
    open(*t, "TRUNCATE");
    json_ += "null";
    data_end_ = json_.size();
    close(*t, bus::kind::truncate, in, nullptr, out);
  }
}

void table_feeds::committed(std::span<bus::event* const> events) {
  for (auto& p : pending_) {
    const auto at = events[p.index]->at;
    if (p.truncated) {
      p.text += R"(,"truncated":true,"position":")";
      append_text(p.text, at);
      p.text += '"';
    }
    p.text += '}';
    mirror_->send(p.channel, std::move(p.text), at);
  }
  pending_.clear();
}

void table_feeds::abandoned() { pending_.clear(); }

std::optional<std::string> table_feeds::channel_of(std::string_view name) const {
  const std::scoped_lock lock{guard_};
  for (const auto& t : watched_) {
    const auto full = t.schema + '.' + t.name;
    if (full == name || (t.schema == "public" && t.name == name)) return "table:" + full;
  }
  return std::nullopt;
}

std::vector<watched_table> table_feeds::watched() const {
  const std::scoped_lock lock{guard_};
  return watched_;
}

}  // namespace postbus::feeds
