// Posting through a pool: order, batches, refusals that touch nobody else, bounds, and what callers are told when the session breaks.
#include "postgres/poster.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <set>

#include "base/metrics.hpp"
#include "embedded_sql.hpp"
#include "postgres/replication_stream.hpp"
#include "support/cluster.hpp"
#include "support/coroutine.hpp"
#include "support/proxy.hpp"

namespace postbus::postgres {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing_support::cluster;
using testing_support::database;
using testing_support::run;
using testing_support::until;

/** A database whose WAL of posted messages can be read, and a poster on it. */
struct posting {
  explicit posting(post_limits limits = {}, bool through_network = false, std::string url = {})
      : network{loop.get_executor(), cluster::shared().server().port()},
        sessions{loop.get_executor(),
                 {.session = {.conninfo = !url.empty()      ? url
                                          : through_network ? fmt::format("postgresql://postgres:{}@127.0.0.1:{}/{}",
                                                                          cluster::shared().server().password(), network.port(), db.name())
                                                            : db.url(),
                              .application_name = "postbus poster test"}}},
        it{loop.get_executor(), sessions, limits} {
    asio::co_spawn(loop, it.run(), [this](std::exception_ptr e) {
      ended = true;
      if (e) std::rethrow_exception(e);
    });
  }
  ~posting() {
    it.stop();
    wait_until([this] { return ended; });
  }
  void wait_until(std::function<bool()> holds) { run(loop, until(std::move(holds))); }

  /** Starts a post; its outcome goes to `outcomes[i]`, the index is returned. */
  std::size_t start(std::string channel, std::string payload, post_form form = post_form::text) {
    const auto i = outcomes.size();
    outcomes.emplace_back();
    asio::co_spawn(loop, it.post(std::move(channel), form, std::move(payload)),
                   [this, i](std::exception_ptr, result<std::uint64_t> r) { outcomes[i] = std::move(r); });
    return i;
  }
  void wait_all() {
    wait_until([this] { return std::ranges::all_of(outcomes, [](const auto& o) { return o.has_value(); }); });
  }
  result<std::uint64_t> post(std::string channel, std::string payload, post_form form = post_form::text) {
    const auto i = start(std::move(channel), std::move(payload), form);
    wait_until([this, i] { return outcomes[i].has_value(); });
    return *outcomes[i];
  }

  database db;
  asio::io_context loop;
  testing_support::proxy network;
  pool sessions;
  poster it;
  std::deque<std::optional<result<std::uint64_t>>> outcomes;
  bool ended{};
};

/** The posts that commit while it lives, read from the WAL by test_decoding. */
struct wal {
  explicit wal(database& of) : db{of}, name{of.name()} {
    db.psql(fmt::format("select pg_create_logical_replication_slot('{}', 'test_decoding')", name));
  }
  ~wal() { db.psql(fmt::format("select pg_drop_replication_slot('{}')", name)); }
  /** "channel=payload" of each, in commit order, and how many transactions they were in. */
  std::vector<std::string> messages() {
    const auto text = db.psql(fmt::format(
        "select substr(data, strpos(data, 'prefix: ')) from pg_logical_slot_get_changes('{}', null, null) where data like 'message:%'",
        name));
    std::vector<std::string> all;
    for (std::size_t at = 0; at < text.size();) {
      auto end = text.find('\n', at);
      if (end == text.npos) end = text.size();
      const auto line = text.substr(at, end - at);
      const auto prefix_end = line.find(", sz: ");
      all.push_back(line.substr(8, prefix_end - 8) + "=" + line.substr(line.find("content:") + 8));
      at = end + 1;
    }
    return all;
  }
  database& db;
  std::string name;
};

TEST(poster, posts_text_and_json_and_tells_a_position_behind_them) {
  posting p;
  wal w{p.db};
  const auto before = parse_lsn(p.db.psql("select pg_current_wal_insert_lsn()"));
  const auto first = p.post("orders", "hello");
  ASSERT_TRUE(first) << first.error().detail;
  const auto second = p.post("orders", R"({"a":  1})", post_form::json);
  ASSERT_TRUE(second) << second.error().detail;
  EXPECT_GT(*first, *before);
  EXPECT_GT(*second, *first);
  EXPECT_THAT(w.messages(), ElementsAre("postbus:t:orders=hello", R"(postbus:j:orders={"a": 1})"));
}

TEST(poster, keeps_the_order_of_a_channel_and_shares_transactions_under_load) {
  posting p;
  wal w{p.db};
  const auto ok = metrics::value(metrics::counter::posts_ok);
  constexpr int count = 2000;
  for (int i = 0; i < count; ++i) p.start(i % 2 ? "a" : "b", std::to_string(i));
  p.wait_all();
  EXPECT_EQ(metrics::value(metrics::counter::posts_ok) - ok, 2000u);
  std::map<std::string, int> last{{"postbus:t:a", -1}, {"postbus:t:b", -1}};
  const auto messages = w.messages();
  EXPECT_EQ(messages.size(), 2000u);
  for (const auto& m : messages) {
    const auto channel = m.substr(0, m.find('='));
    const auto number = std::stoi(m.substr(m.find('=') + 1));
    EXPECT_GT(number, last[channel]);
    last[channel] = number;
  }
  std::set<std::uint64_t> positions;
  for (const auto& o : p.outcomes) positions.insert(**o);
  EXPECT_LT(positions.size(), 100u) << "many messages, few commits";
}

TEST(poster, a_refused_message_touches_no_other) {
  posting p;
  wal w{p.db};
  p.start("a", "1");  // alone on its way; the next five share a transaction at first
  p.start("a", "2");
  p.start("a", "{not json", post_form::json);
  p.start("a", "3");
  p.start("a", "\xff");
  p.start("a", "4");
  p.wait_all();
  const auto code = [&](std::size_t i) { return p.outcomes[i]->error().code; };
  EXPECT_TRUE(*p.outcomes[0]);
  EXPECT_TRUE(*p.outcomes[1]);
  EXPECT_EQ(code(2), errc::invalid_argument);
  EXPECT_EQ(p.outcomes[2]->error().text, "the payload is not JSON");
  EXPECT_TRUE(*p.outcomes[3]);
  EXPECT_EQ(code(4), errc::unsupported_media);
  EXPECT_TRUE(*p.outcomes[5]);
  EXPECT_THAT(w.messages(), ElementsAre("postbus:t:a=1", "postbus:t:a=2", "postbus:t:a=3", "postbus:t:a=4"));
}

TEST(poster, says_what_our_sql_refuses) {
  posting p;
  auto r = p.post("table:public.orders", "x");
  EXPECT_EQ(r.error().code, errc::invalid_channel) << r.error().text;
  r = p.post(std::string(256, 'c'), "x");
  EXPECT_EQ(r.error().code, errc::invalid_channel);
  r = p.post("a", std::string{"nul\0", 4});
  EXPECT_EQ(r.error().code, errc::invalid_argument);
  r = p.post("a", R"("\u0000")", post_form::json);
  EXPECT_EQ(r.error().code, errc::invalid_argument);
  EXPECT_THAT(r.error().text, HasSubstr("u0000"));
  p.db.psql("select postbus.set_payload_limit(1000)");
  r = p.post("a", std::string(1001, 'x'));
  EXPECT_EQ(r.error().code, errc::too_large);
  EXPECT_THAT(r.error().text, HasSubstr("set_payload_limit"));
}

TEST(poster, posts_sixteen_megabytes) {
  posting p{{.deadline = 60s}};
  const auto r = p.post("a", std::string(16 << 20, 'x'));
  EXPECT_TRUE(r);
}

TEST(poster, names_the_fix_when_the_schema_or_the_right_is_missing) {
  posting p;
  p.db.psql("create role stranger login password 'p'");
  {
    posting q{{}, false, p.db.url_as("stranger", "p")};
    const auto r = q.post("a", "x");
    EXPECT_THAT(r.error().text, HasSubstr("grant")) << r.error().detail;
  }
  p.db.psql("drop role stranger");
  p.db.psql("drop schema postbus cascade");
  const auto r = p.post("a", "x");
  EXPECT_THAT(r.error().text, HasSubstr("postbus setup")) << r.error().detail;
}

TEST(poster, bounds_its_queue_in_messages_and_bytes) {
  posting p{{.queued = 2, .queued_bytes = 100}};
  p.start("a", "1");
  p.start("a", "2");
  const auto third = p.start("a", "3");
  p.wait_all();
  EXPECT_EQ(p.outcomes[third]->error().code, errc::too_many);
  EXPECT_EQ(p.it.queued(), 0u);
  EXPECT_EQ(p.post("a", std::string(100, 'x')).error().code, errc::too_many);
  EXPECT_TRUE(p.post("a", "x"));
}

TEST(poster, tells_that_the_outcome_is_unknown_when_the_session_breaks_on_the_way) {
  posting p{{.deadline = 300ms}, true};
  EXPECT_TRUE(p.post("a", "1"));
  p.network.freeze();
  const auto r = p.post("a", "2");
  EXPECT_EQ(r.error().code, errc::timed_out);
  EXPECT_THAT(r.error().text, HasSubstr("may have been posted"));
  EXPECT_TRUE(p.post("a", "3")) << "on a new session";
}

/** Cut at each reply in turn: whatever a caller was told is true. */
TEST(poster, tells_the_truth_whichever_reply_is_cut) {
  for (std::size_t cut = 1;; ++cut) {
    SCOPED_TRACE(cut);
    posting p{{}, true};
    wal w{p.db};
    p.network.cut_at_reply(cut);
    for (int i = 0; i < 3; ++i) p.start("a", std::to_string(i));
    p.wait_all();
    while (!p.post("a", "end")) {
    }
    const auto messages = w.messages();
    int told = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const bool posted = std::ranges::count(messages, fmt::format("postbus:t:a={}", i)) == 1;
      const auto& outcome = *p.outcomes[i];
      if (outcome)
        EXPECT_TRUE(posted);
      else if (!outcome.error().text.contains("may have been posted"))
        EXPECT_FALSE(posted) << outcome.error().text;
      told += outcome.has_value();
    }
    if (told == 3 && p.network.replies() < cut) break;
  }
}

TEST(poster, stopping_posts_what_is_queued_and_refuses_the_rest) {
  posting p;
  wal w{p.db};
  for (int i = 0; i < 10; ++i) p.start("a", std::to_string(i));
  p.wait_until([&] { return p.it.queued() == 10; });
  p.it.stop();
  EXPECT_EQ(p.post("a", "late").error().code, errc::draining);
  p.wait_until([&] { return p.ended; });
  EXPECT_EQ(w.messages().size(), 10u);
}

/** Both ways in which a position is told name the end of the WAL as commits do, at the ends of pages and segments too. */
TEST(poster, positions_do_not_lie_beyond_the_wal) {
  database db;
  std::string statement{embedded_sql::find("statements/insert_lsn.sql")};
  statement.erase(statement.rfind(';'));
  db.psql(fmt::format(R"(
    create procedure try() language plpgsql as $p$
    declare next pg_lsn; here pg_lsn; said text; header int; seen int := 0;
    begin
      for i in 1..40000 loop
        perform pg_logical_emit_message(true, 'x', repeat('x', (i * 7919) % 200));
        commit;
        if seen = 3 then
          seen := 4;
          perform pg_switch_wal();
        end if;
        next := pg_current_wal_insert_lsn();
        header := case when (next - '0/0') % 16777216 = 40 then 40 when (next - '0/0') % 8192 = 24 then 24 else 0 end;
        continue when header = 0;
        execute $s${}$s$ into here;
        said := split_part(postbus.position(), '-', 2);
        continue when pg_current_wal_insert_lsn() <> next;  -- another process wrote
        if here <> next - header or said <> lpad(to_hex((here - '0/0')::bigint), 16, '0') then
          raise exception 'told % and %, the next record starts at %', here, said, next;
        end if;
        seen := seen + 1;
        exit when header = 40;
      end loop;
      if seen < 4 then raise exception 'no end of a page and of a segment in %', seen; end if;
    end $p$)",
                      statement));
  db.psql("call try()");
}

}  // namespace
}  // namespace postbus::postgres
