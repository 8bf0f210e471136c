// What views are given as the stream goes must be what a replay of the same events shows through them: the one finds views by
// their keys, several changes at a time, the other judges every event by the whole filter.
#include "feeds/view_registry.hpp"

#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <list>
#include <random>

#include "bus/hub.hpp"
#include "bus/shard.hpp"
#include "changes/assembler.hpp"
#include "feeds/table_feeds.hpp"
#include "unit/pgoutput_frames.hpp"

namespace postbus::feeds {
namespace {

namespace asio = boost::asio;
namespace wire = testing_support::wire;
using row = std::vector<wire::value>;

constexpr oid full = 20'000, keyed_by_a = 20'001, parted = 20'002, full_part = 20'003, keyed_part = 20'004;

class three_tables : public catalog {
public:
  asio::awaitable<result<std::vector<watched_table>>> watched(std::uint64_t) override {
    std::vector<watched_table> all(3);
    all[0] = {.table = full, .schema = "public", .name = "full", .columns = {}, .notify = {}, .primary_key = {"a"}};
    all[1] = {.table = keyed_by_a, .schema = "public", .name = "keyed", .columns = {}, .notify = {}, .primary_key = {"a"}};
    all[2] = {
        .table = parted, .schema = "public", .name = "parted", .columns = {}, .notify = {}, .primary_key = {"a"}, .partitioned = true};
    co_return all;
  }
  asio::awaitable<result<std::vector<type_row>>> types(std::vector<oid>) override { co_return std::vector<type_row>{}; }
  asio::awaitable<result<std::string>> describe(const table_description&) override { co_return std::string{}; }
};

struct view_registry_fixture : testing::Test {
  struct watcher : bus::listener {
    void on_event(bus::topic&, const bus::event_ref& e) override { append(heard, *e); }
    static void append(std::string& to, const bus::event& e) {
      to.append(bus::to_text(e.kind)).append(" ").append(bus::to_text(e.at)).append(" ").append(e.payload).push_back('\n');
    }
    std::shared_ptr<const view> of;
    std::string heard, shown;
  };

  view_registry_fixture() {
    made_.start(1, 0, 1, 150000);
    hub_.begin(made_.applied());
    take(wire::begin(500, 0, 500));
    describe(false);
    take(wire::relation(keyed_by_a, "public", "keyed", {{"a", 23, true}, {"t", 25, false}}));
    take(wire::commit(500, 508, 0));
    publish();
  }
  ~view_registry_fixture() override {
    for (auto& w : watchers_) shard_.unsubscribe(w, w.of->channel());
    watchers_.clear();
    run();
    EXPECT_EQ(feeds_.views().size(), 0u);
  }
  void run() {
    loop_.restart();
    loop_.run();
  }
  void take(const std::string& payload) {
    ASSERT_TRUE(made_.take(wire::data(payload)));
    if (!feeds_.wants_to_resolve()) return;
    asio::co_spawn(loop_, feeds_.resolve(), asio::detached);
    run();
  }
  void describe(bool wide) {
    std::vector<wire::column> columns{{"a", 23, true}, {"t", 25, true}};
    if (wide) columns.push_back({"more", 25, true});
    take(wire::relation(full, "public", "full", columns, 'f'));
  }
  /** As the server does before the first row of a partition: the root, whose identity says nothing, then the partition. */
  void tell(oid partition, std::string_view name, char identity) {
    take(wire::relation(parted, "public", "parted", {{"a", 23, true}, {"t", 25, true}}, 'f'));
    take(wire::relation(partition, "public", name, {{"a", 23, true}, {"t", 25, identity == 'f'}}, identity));
  }
  watcher& watch(std::string_view table, std::string_view filter, std::optional<std::vector<std::string>> columns = {},
                 bool maybe = false) {
    static const std::vector<column_facts> facts{
        {.name = "a", .type = 23, .kind = comparable::integer, .type_name = "integer", .cast = "pg_catalog.int4"},
        {.name = "t", .type = 25, .kind = comparable::text, .type_name = "text", .cast = "pg_catalog.text"}};
    view::parts parts{.feed = "table:public." + std::string{table}, .columns = std::move(columns), .maybe = maybe};
    if (!filter.empty())
      parts.filter = predicate::bind(parse_filter(filter).value(), facts, [](std::string_view, std::string_view literal) {
                       return std::optional{std::string{literal}};
                     }).value();
    auto& w = watchers_.emplace_back();
    w.of = feeds_.views().open(std::move(parts), loop_.get_executor());
    shard_.subscribe(w, w.of->channel(), bus::from_now{}, w.of->feed());
    return w;
  }
  /** Publishes what is committed, and notes what a replay of it shows. */
  void publish() {
    auto ready = made_.committed();
    if (!ready) return;
    feeds_.before_publish(*ready);
    hub_.publish(ready);
    shard_.deliver();
    for (auto& w : watchers_) {
      std::vector<bus::event_ref> own;
      for (const auto* const e : std::as_const(*ready).events())
        if (e->channel == w.of->feed()) own.push_back({ready, e});
      for (const auto& e : replay_through(*w.of, own)) watcher::append(w.shown, *e);
    }
  }

  asio::io_context loop_;
  bus::hub hub_;
  bus::shard shard_{hub_, {}, [] {}};
  table_feeds feeds_{std::make_unique<three_tables>()};
  changes::assembler made_{{}, &feeds_};
  std::list<watcher> watchers_;
};

TEST_F(view_registry_fixture, views_are_given_what_a_replay_shows) {
  for (const auto* const table : {"full", "keyed"}) {
    for (const auto* const filter :
         {"a = 0", "a = 1", "a = 2", "a = 3", "a in (1, 2)", "a in (3)", "a in (3, null)", "a > 2", "not a = 1", ""})
      watch(table, filter);
    watch(table, "a = 2", std::vector<std::string>{"t"});
  }
  watch("full", "a = 1 and t = 'x'");
  watch("full", "t = 'x'");
  watch("full", "a in (0, 1) and t in ('y', 'z')");
  watch("keyed", "t = 'x'", std::nullopt, true);

  std::mt19937 random{20261125};
  const auto number = [&]() -> wire::value {
    static constexpr std::string_view all[]{"0", "1", "2", "3", "4"};
    const auto n = random() % 6;
    return n == 5 ? wire::value{} : all[n];
  };
  const auto text = [&]() -> wire::value {
    static constexpr std::string_view all[]{"x", "y", "z"};
    const auto n = random() % 4;
    return n == 3 ? wire::value{} : all[n];
  };
  bool wide = false;
  std::uint64_t lsn = 1000;
  for (int batch = 0; batch < 400; ++batch) {
    take(wire::begin(lsn, 0, static_cast<std::uint32_t>(lsn)));
    for (auto left = random() % 40; left > 0; --left) {
      const bool is_full = random() % 2 == 0;
      const auto table = is_full ? full : keyed_by_a;
      row old{number(), text()}, now{random() % 2 == 0 ? old[0] : number(), text()};
      if (is_full && random() % 4 == 0) now[1] = wire::unchanged;
      if (is_full && wide) old.emplace_back("1"), now.emplace_back("2");
      const row key{old[0], wire::value{}};
      switch (random() % 20) {
        case 0: take(wire::truncate({table})); break;
        case 1: describe(wide = !wide); break;
        case 2:
        case 3:
        case 4:
          if (now[1] == wire::unchanged) now[1] = "x";
          take(wire::insert(table, now));
          break;
        case 5:
        case 6:
        case 7: take(wire::delete_(table, is_full ? 'O' : 'K', is_full ? old : key)); break;
        default:
          if (is_full)
            take(wire::update(table, now, 'O', old));
          else if (old[0] == now[0])
            take(wire::update(table, now));
          else
            take(wire::update(table, now, 'K', key));
      }
    }
    take(wire::commit(lsn, lsn + 8, 0));
    lsn += 16;
    if (random() % 3 != 0) publish();
  }
  publish();
  for (const auto& w : watchers_) {
    EXPECT_EQ(w.heard, w.shown) << w.of->channel();
    EXPECT_FALSE(w.shown.empty()) << w.of->channel();
  }
}

// A row of a partition with an identity of its own comes as a full old row in which NULL stands for what nobody knows: views that
// need more than its key end there, those that are found by such a value among them, in the midst of the changes that are
// looked at beside it. The others go on.
TEST_F(view_registry_fixture, a_view_ends_where_it_cannot_tell) {
  auto& by_text = watch("parted", "t = 'x'");
  auto& by_both = watch("parted", "a = 1 and t = 'x'");
  auto& by_null = watch("parted", "t is null");
  auto& by_number = watch("parted", "a = 1");
  take(wire::begin(1000, 0, 1000));
  tell(full_part, "full_part", 'f');
  for (int i = 0; i < 5; ++i) take(wire::insert(parted, {"1", "x"}));
  take(wire::delete_(parted, 'O', {"2", wire::value{}}));  // it was NULL
  tell(keyed_part, "keyed_part", 'd');
  take(wire::delete_(parted, 'O', {"1", wire::value{}}));
  for (int i = 0; i < 20; ++i) take(wire::insert(parted, {"1", "x"}));
  take(wire::commit(1000, 1008, 0));
  publish();
  const auto count = [](std::string_view all, std::string_view word) {
    std::size_t n = 0;
    for (auto at = all.find(word); at != std::string_view::npos; at = all.find(word, at + 1)) ++n;
    return n;
  };
  for (auto* const w : {&by_text, &by_both, &by_null}) {
    EXPECT_TRUE(w->of->ended());
    EXPECT_EQ(count(w->heard, "insert "), w == &by_null ? 0u : 5u);
    EXPECT_EQ(count(w->heard, "delete "), w == &by_null ? 1u : 0u);
    EXPECT_EQ(count(w->heard, "ended "), 1u);
  }
  EXPECT_FALSE(by_number.of->ended());
  EXPECT_EQ(by_number.heard, by_number.shown);
  EXPECT_EQ(count(by_number.heard, "insert "), 25u);
  EXPECT_EQ(count(by_number.heard, "delete "), 1u);
  EXPECT_EQ(count(by_number.heard, "null"), 0u) << by_number.heard;
  EXPECT_EQ(feeds_.views().size(), 1u);
}

}  // namespace
}  // namespace postbus::feeds
