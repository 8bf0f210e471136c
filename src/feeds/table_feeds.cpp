// One change's life here. The stream tells a relation before its first row: its columns are matched with the watched
// table's options, and types that are not PostgreSQL's own are looked up before the row is written (`resolve`; the
// stream waits, once per relation). A row becomes
//
//   {"schema":"public","table":"orders","action":"UPDATE","data":{…},"old":{…},"unchanged":[…],"xid":42}
//
// `data` is the new row, of a DELETE what is known of the old one: its key, or all of it under REPLICA IDENTITY FULL.
// `old` stands where the server sent it: the old key when an update changed it, the whole old row under FULL. Of a partitioned
// table that is what the partition's identity has, which the server tells in a relation message of its own behind the table's,
// before the first row that comes of the partition. A TOASTed
// value that an update did not touch is not in the WAL: it is filled in from the old row where that is known, else the
// column is left out of `data` and named in `unchanged`. Columns that `watch` was not given never appear.
//
// The part from "table" to the end of `data` is what the mirror sends to a plain channel, braces around it.
//
// Options follow the stream: postbus.watch writes the message postbus:watched into its transaction, and the list is
// read anew when that message comes, as seen with that transaction visible: a change is never shown under older options
// than those at its place in the stream, but may be under newer ones when the reader is behind. A relation that is published and not in
// the list (unwatched meanwhile, or published by hand) has no feed.
//
// Types: the stream tells nothing of ALTER TYPE. What was looked up is looked up again when a new stream begins, when the stream tells a
// relation once more, as it does when anything about the table changed, and when a value is not what its type promises: that row is
// handed over again. So an attribute that comes or goes is in the first row that was written with it; a new name of one, at the
// relation's next telling.
#include "feeds/table_feeds.hpp"

#include <algorithm>
#include <charconv>

#include "base/json_text.hpp"
#include "base/log.hpp"
#include "feeds/feed_name.hpp"
#include "feeds/mirror.hpp"

namespace postbus::feeds {
namespace {

namespace pgoutput = postgres::pgoutput;

/** Names and types of two relation messages' columns are the same; keys, which the replica identity decides, may differ. */
bool same_columns(std::string_view a, std::string_view b) {
  pgoutput::column_reader one{a}, other{b};
  for (;;) {
    const auto x = one.next(), y = other.next();
    if (!x || !y) return !x && !y;
    if (x->name != y->name || x->type_oid != y->type_oid || x->type_modifier != y->type_modifier) return false;
  }
}

/** The types that are never looked up. */
const type_table& own_to_postgres() {
  static const type_table only;
  return only;
}

}  // namespace

struct table_feeds::table {
  std::string bytes;  ///< the relation message's columns: equal bytes, equal columns
  bool told{true};    ///< by this stream
  bool own_types{};   ///< a column is of a type that is not PostgreSQL's own
  std::shared_ptr<table_description> description;
  bool used{};        ///< events carry the description, so it is not changed any more
  std::string notify;
  bool watched{};
  partition_identities partitions;
  std::string columns_json;  ///< the column list that a `schema` event is due to tell; empty: none is
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
  // Tables are kept: the stream tells them anew, and a change of their columns while we were away is noticed.
  for (auto& [id, t] : tables_) t->told = false;
  stale_ = types_stale_ = true;
  stale_xid_ = 0;
  told_last_ = 0;
  found_at_.reset();
  for (auto& [id, t] : tables_) t->partitions.clear();
}

void table_feeds::relation(const changes::transaction& in, const pgoutput::relation& r) {
  describe(r);
  const auto before = tables_.find(std::exchange(told_last_, r.oid));
  if (before == tables_.end() || before->first == r.oid) return;
  // Two in a row are a partitioned table and its partition, or else tables that one TRUNCATE empties: then too much is counted,
  // until the catalog is read again.
  const auto& d = *tables_.at(r.oid)->description;
  carried_columns carried{.partition = r.oid, .all = d.identity == pgoutput::replica_identity::full};
  for (std::size_t i = 0; i < d.columns.size() && !carried.all; ++i)
    if (d.in_identity[i]) carried.names.push_back(d.columns[i].name);
  before->second->partitions.tell(std::move(carried), in.xid);
  const std::scoped_lock lock{guard_};
  apply_options(*before->second);
}

/** Takes over a relation message, where it is another than the last of its table. */
void table_feeds::describe(const pgoutput::relation& r) {
  const auto known = tables_.find(r.oid);
  auto* const held = known == tables_.end() ? nullptr : known->second.get();
  const auto schema = r.schema.empty() ? std::string_view{"pg_catalog"} : r.schema;
  if (held != nullptr) {
    const auto& d = *held->description;
    if (d.schema == schema && d.name == r.name && held->bytes == r.column_bytes && d.identity == r.identity) {
      types_stale_ |= known->second->told && known->second->own_types;
      known->second->told = true;
      return;
    }
  }
  bool changed = held != nullptr && !same_columns(held->bytes, r.column_bytes);
  const bool told_again = held != nullptr && held->told;
  if (held == nullptr)  // a table that was dropped and made anew under its name
    erase_if(tables_, [&](const auto& other) {
      if (!other.second || other.second->description->schema != schema || other.second->description->name != r.name) return false;
      changed = true;
      return true;
    });
  auto partitions = held != nullptr ? std::move(held->partitions) : partition_identities{};
  tables_[r.oid] = std::make_unique<table>();
  auto& t = *tables_[r.oid];
  t.partitions = std::move(partitions);
  t.bytes = r.column_bytes;
  t.description = std::make_shared<table_description>();
  auto& d = *t.description;
  d.id = r.oid;
  d.schema = schema;
  d.name = r.name;
  d.identity = r.identity;
  d.types = types_;
  for (auto columns = r.columns(); const auto c = columns.next();) {
    auto& made = d.columns.emplace_back();
    made.name = c->name;
    append_json_string(made.key_text, c->name);
    made.key_text += ':';
    made.type_oid = c->type_oid;
    made.type_modifier = c->type_modifier;
    made.type = types_->find(c->type_oid);
    t.own_types |= !own_to_postgres().find(c->type_oid);
    d.in_identity.push_back(c->key);
    if (!made.type) unknown_types_.push_back(c->type_oid);
  }
  d.channel = "table:" + d.schema + '.' + d.name;
  d.head = R"({"schema":)";
  append_json_string(d.head, d.schema);
  d.table_at = d.head.size() + 1;
  d.head += R"(,"table":)";
  append_json_string(d.head, d.name);
  d.head += R"(,"action":")";
  if (changed) unnamed_.push_back(r.oid);
  types_stale_ |= t.own_types && (changed || told_again);
  const std::scoped_lock lock{guard_};
  apply_options(t);
  if (!t.watched) stale_ = true;
}

/** Finds the table's options in watched_; the lock is held. */
void table_feeds::apply_options(table& t) {
  const auto found = std::ranges::find(watched_, t.description->id, &watched_table::table);
  t.watched = found != watched_.end();
  if (!t.watched) return;
  t.notify = found->notify;
  const auto listed = [](const auto& names, const std::string& name) { return std::ranges::find(names, name) != names.end(); };
  const auto& d = *t.description;
  column_set shown, key, carried;
  for (std::size_t i = 0; i < d.columns.size(); ++i) {
    const auto& name = d.columns[i].name;
    shown.push_back(!found->columns || listed(*found->columns, name));
    carried.push_back(found->partitioned ? t.partitions.carry(name) : d.in_identity[i]);
    const bool by_primary_key = found->partitioned || d.identity == pgoutput::replica_identity::full;
    key.push_back(carried.back() && (!by_primary_key || listed(found->primary_key, name)));
  }
  if (d.shown == shown && d.key == key && d.carried == carried && d.partitioned == found->partitioned) return;
  if (std::exchange(t.used, false)) t.description = std::make_shared<table_description>(d);
  t.description->shown = std::move(shown);
  t.description->key = std::move(key);
  t.description->carried = std::move(carried);
  t.description->partitioned = found->partitioned;
}

boost::asio::awaitable<result<>> table_feeds::resolve() {
  if (stale_) {
    auto all = co_await catalog_->watched(stale_xid_);
    if (!all) co_return all.error();
    stale_ = false;
    stale_xid_ = 0;
    for (auto& w : *all) {
      auto partitions = std::exchange(w.partitions, {});
      const auto t = tables_.find(w.table);
      if (!w.partitioned || t == tables_.end()) continue;
      t->second->partitions.found(std::move(partitions), w.before_xid);
      found_at_ = w.as_of;
    }
    const std::scoped_lock lock{guard_};
    watched_ = std::move(*all);
    for (auto& [id, t] : tables_) apply_options(*t);
  }
  if (types_stale_ || !unknown_types_.empty())
    if (auto resolved = co_await resolve_types(); !resolved) co_return resolved;
  while (!unnamed_.empty()) {
    const auto t = tables_.find(unnamed_.back());
    if (t != tables_.end() && t->second->watched) {
      auto names = co_await catalog_->describe(*t->second->description);
      if (!names) co_return names.error();
      t->second->columns_json = std::move(*names);
    }
    unnamed_.pop_back();
  }
  co_return result<>{};
}

/** Looks up the types that are not known, or all again. What a description in use refers to stays as it is. */
boost::asio::awaitable<result<>> table_feeds::resolve_types() {
  auto asked = std::exchange(unknown_types_, {});
  const bool again = std::exchange(types_stale_, false), misfit = std::exchange(misfit_, false);
  if (again)
    for (const auto& [id, t] : tables_)
      for (const auto& c : t->description->columns)
        if (!own_to_postgres().find(c.type_oid)) asked.push_back(c.type_oid);
  if (asked.empty()) co_return result<>{};
  std::ranges::sort(asked);
  asked.erase(std::ranges::unique(asked).begin(), asked.end());
  auto found = co_await catalog_->types(asked);
  if (!found) {
    types_stale_ = true;
    co_return found.error();
  }
  std::map<oid, type_row> rows;
  for (const auto& row : *found) rows.emplace(row.type, row);
  if (!again) {
    type_rows_.merge(rows);
  } else if (rows == type_rows_) {
    if (misfit) misfits_until_ = steady::now() + std::chrono::seconds{1};
  } else {
    type_rows_ = std::move(rows);
    types_ = std::make_shared<type_table>();
  }
  types_->add(*found, asked);
  for (auto& [id, t] : tables_) {
    const auto known = [](const table_description::column& c) { return c.type != nullptr; };
    if (t->description->types == types_ && std::ranges::all_of(t->description->columns, known)) continue;
    if (std::exchange(t->used, false)) t->description = std::make_shared<table_description>(*t->description);
    t->description->types = types_;
    for (auto& c : t->description->columns) c.type = types_->find(c.type_oid);
  }
  co_return result<>{};
}

/** For a row with a value that is not what its type promises: whether to look the types up, as they were for that row's transaction at least, and have the row come again. */
bool table_feeds::look_again(const changes::transaction& in, bool fits) {
  if (fits || steady::now() < misfits_until_) return false;
  stale_ = types_stale_ = misfit_ = true;
  stale_xid_ = in.xid;
  return true;
}

void table_feeds::internal(const changes::transaction& in, std::string_view name, std::string_view) {
  if (name != "watched") return;
  stale_ = true;
  stale_xid_ = in.xid;
}

/** The table a change belongs to, if it has a feed. */
table_feeds::table* table_feeds::find(std::uint32_t relation) {
  told_last_ = 0;
  const auto found = tables_.find(relation);
  if (found == tables_.end() || !found->second->watched) return nullptr;
  auto& t = *found->second;
  t.used = true;
  return &t;
}

/**
 * Tells that the columns have changed, where that is due: behind the change by which it was noticed, so that who resumes after
 * their common position has all rows.
 */
void table_feeds::announce(table& t, const changes::transaction& in, bus::batch& out, std::uint32_t number) {
  if (t.columns_json.empty()) return;
  const auto& d = *t.description;
  json_.assign(d.head, 0, d.head.size() - std::string_view{R"("action":")"}.size());
  json_ += std::exchange(t.columns_json, {});
  auto& made = out.add(d.channel, bus::kind::schema, bus::payload_form::json, json_, {.index = number}, in.time);
  keep_change(made, {.kind = bus::kind::schema}, t.description, out);
}

void table_feeds::open(const table& t, std::string_view action) {
  json_ = t.description->head;
  json_ += action;
  json_ += R"(","data":)";
  data_at_ = json_.size();
  left_out_.clear();
}

/** Ends the payload behind `data` (and `old`), and adds the event: of the change's table that has this number in it. */
void table_feeds::close(table& t, const row_change& change, const changes::transaction& in, bus::batch& out, std::uint32_t number) {
  const auto& d = *t.description;
  if (!left_out_.empty()) {
    json_ += R"(,"unchanged":[)";
    json_ += left_out_;
    json_ += ']';
  }
  json_ += R"(,"xid":)";
  char digits[20];
  json_.append(digits, std::to_chars(digits, digits + sizeof digits, in.xid).ptr);
  json_ += '}';
  auto& event = out.add(d.channel, change.kind, bus::payload_form::json, json_, {.index = number}, in.time);
  keep_change(event, change, t.description, out);
  if (t.notify.empty() || !mirror_) return;

  pending made{.index = out.events().size() - 1 - in.first_event, .channel = t.notify, .text = "{", .truncated = false};
  made.text.append(json_, d.table_at, data_end_ - d.table_at);
  made.truncated = made.text.size() + 1 > mirror::max_payload;
  if (made.truncated) {
    constexpr std::size_t tail = sizeof R"(,"truncated":true,"position":""})" + bus::position::text_size;
    made.text.resize(1 + data_at_ - d.table_at);
    const auto before_key = made.text.size();
    if (change.kind != bus::kind::truncate) {
      if (change.kind == bus::kind::delete_)
        append_old_columns(made.text, d, change.old, both(d.key, d.shown));
      else
        append_columns(made.text, d, change.row, nullptr, both(d.key, d.shown), nullptr);
    }
    if (made.text.size() + tail > mirror::max_payload) {
      made.text.resize(before_key);
      made.text += "{}";
    }
  }
  pending_.push_back(std::move(made));
}

bool table_feeds::insert(const changes::transaction& in, const pgoutput::insert& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return true;
  open(*t, "INSERT");
  const bool fits = append_columns(json_, *t->description, change.row, nullptr, t->description->shown, &left_out_);
  if (look_again(in, fits)) return false;
  data_end_ = json_.size();
  close(*t, {.kind = bus::kind::insert, .row = change.row}, in, out);
  announce(*t, in, out);
  return true;
}

bool table_feeds::update(const changes::transaction& in, const pgoutput::update& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return true;
  const auto& d = *t->description;
  open(*t, "UPDATE");
  const bool has_old = change.old_kind != pgoutput::old_row::none;
  bool fits = append_columns(json_, d, change.row, has_old ? &change.old : nullptr, d.shown, &left_out_);
  data_end_ = json_.size();
  if (has_old) {
    json_ += R"(,"old":)";
    fits &= append_old_columns(json_, d, change.old, d.shown);
  }
  if (look_again(in, fits)) return false;
  close(*t, {.kind = bus::kind::update, .old_kind = change.old_kind, .old = change.old, .row = change.row}, in, out);
  announce(*t, in, out);
  return true;
}

bool table_feeds::delete_(const changes::transaction& in, const pgoutput::delete_& change, bus::batch& out) {
  auto* const t = find(change.relation);
  if (!t) return true;
  const auto& d = *t->description;
  open(*t, "DELETE");
  const bool fits = append_old_columns(json_, d, change.old, d.shown);
  if (look_again(in, fits)) return false;
  data_end_ = json_.size();
  close(*t, {.kind = bus::kind::delete_, .old_kind = change.old_kind, .old = change.old}, in, out);
  announce(*t, in, out);
  return true;
}

void table_feeds::truncate(const changes::transaction& in, const pgoutput::truncate& change, bus::batch& out) {
  std::uint32_t number = 0;
  for (auto relations = change.relations(); const auto id = relations.next(); ++number) {
    auto* const t = find(*id);
    if (!t) continue;
    open(*t, "TRUNCATE");
    json_ += "null";
    data_end_ = json_.size();
    close(*t, {.kind = bus::kind::truncate}, in, out, number);
    announce(*t, in, out, number);
  }
}

void table_feeds::moved(std::size_t from) {
  for (auto& p : pending_) p.index += p.index >= from ? 1 : 0;
}

void table_feeds::committed(std::span<bus::event* const> events, std::size_t known) {
  for (auto& p : pending_) {
    if (p.index < known) continue;  // it was sent on when it was handed out
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
  if (!found_at_ || events.empty() || events.back()->at.lsn <= *found_at_) return;
  found_at_.reset();
  const std::scoped_lock lock{guard_};
  for (auto& [id, t] : tables_) {
    t->partitions.arrived();
    apply_options(*t);
  }
}

void table_feeds::before_publish(bus::batch& events) {
  // What partitions were told to carry may be out of date.
  stale_ |= !views_->derive(events);
}

void table_feeds::abandoned() { pending_.clear(); }

std::optional<std::string> table_feeds::channel_of(std::string_view name) const {
  std::optional<std::string> in_public;
  const std::scoped_lock lock{guard_};
  for (const auto& t : watched_) {
    auto channel = std::string{feed_prefix} + t.schema + '.' + t.name;
    if (std::string_view{channel}.substr(feed_prefix.size()) == name) return channel;
    if (t.schema == "public" && t.name == name) in_public = std::move(channel);
  }
  return in_public;
}

std::vector<watched_table> table_feeds::watched() const {
  const std::scoped_lock lock{guard_};
  return watched_;
}

}  // namespace postbus::feeds
