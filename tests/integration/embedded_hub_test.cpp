#include "postbus/hub.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>

#include "support/cluster.hpp"

namespace postbus {
namespace {

using testing::HasSubstr;
using testing_support::database;

/** What handlers were called with, for the test's own thread. */
class mailbox {
public:
  std::function<void(const event&)> handler() {
    return [this](const event& e) {
      {
        const std::lock_guard lock{guard_};
        events_.push_back(e);
      }
      changed_.notify_all();
    };
  }
  std::optional<event> next() {
    std::unique_lock lock{guard_};
    if (!changed_.wait_for(lock, std::chrono::seconds{30}, [&] { return !events_.empty(); })) return std::nullopt;
    auto out = std::move(events_.front());
    events_.pop_front();
    return out;
  }
  bool empty() {
    const std::lock_guard lock{guard_};
    return events_.empty();
  }

private:
  std::mutex guard_;
  std::condition_variable changed_;
  std::deque<event> events_;
};

class embedded_hub_test : public testing::Test {
protected:
  database db;
};

TEST_F(embedded_hub_test, brings_posts_feeds_and_plain_notify) {
  db.psql("create table orders(id int primary key, what text)");
  db.psql("select postbus.watch('orders')");
  mailbox posts, rows;
  embedded_hub hub{{.database = db.url()}};
  EXPECT_TRUE(hub.ready());
  const auto a = hub.listen("a", posts.handler());
  const auto b = hub.listen("table:public.orders", rows.handler());
  hub.post("a", "from the hub");
  EXPECT_EQ(posts.next()->payload, "from the hub");
  db.psql("select postbus.post('a', '{\"n\": 1}'::jsonb)");
  const auto json = posts.next();
  EXPECT_TRUE(json->is_json);
  EXPECT_EQ(json->payload, R"({"n": 1})");
  db.psql("notify a, 'plain'");
  EXPECT_EQ(posts.next()->payload, "plain");
  db.psql("insert into orders values (7, 'x')");
  const auto row = rows.next();
  EXPECT_EQ(row->kind, event_kind::insert);
  EXPECT_THAT(row->payload, HasSubstr(R"("data":{"id":7,"what":"x"})"));
}

TEST_F(embedded_hub_test, handlers_may_post_listen_and_stop) {
  mailbox answers;
  embedded_hub hub{{.database = db.url()}};
  std::optional<hub_subscription> second;
  auto first = hub.listen("ask", [&](const event& e) {
    if (!second) second = hub.listen("other", answers.handler());
    hub.post("answer", e.payload + " done");
  });
  const auto heard = hub.listen("answer", answers.handler());
  hub.post("ask", "job 1");
  EXPECT_EQ(answers.next()->payload, "job 1 done");
  hub.post("other", "x");
  EXPECT_EQ(answers.next()->payload, "x");
  first.stop();
  EXPECT_TRUE(first.ended());
  hub.post("ask", "job 2");
  hub.post("answer", "the last");
  EXPECT_EQ(answers.next()->payload, "the last");
}

TEST_F(embedded_hub_test, a_handler_that_throws_ends_its_own_subscription_only) {
  mailbox box;
  embedded_hub hub{{.database = db.url()}};
  const auto bad = hub.listen("a", [](const event&) { throw std::runtime_error{"on purpose"}; });
  const auto good = hub.listen("a", box.handler());
  hub.post("a", "1");
  hub.post("a", "2");
  EXPECT_EQ(box.next()->payload, "1");
  EXPECT_EQ(box.next()->payload, "2");
  EXPECT_TRUE(bad.ended());
  EXPECT_FALSE(good.ended());
}

TEST_F(embedded_hub_test, a_slow_handler_loses_nothing_beyond_the_bound_of_its_queue) {
  mailbox box;
  embedded_hub hub{{.database = db.url(), .queue_events = 8}};
  std::mutex gate;
  std::unique_lock closed{gate};
  const auto slow = hub.listen("a", [&, keep = box.handler()](const event& e) {
    const std::lock_guard wait{gate};
    keep(e);
  });
  db.psql("select postbus.post('a', n::text) from generate_series(1, 5000) n");
  hub.post("b", "posting goes on");
  closed.unlock();
  for (int n = 1; n <= 5000; ++n) {
    const auto e = box.next();
    ASSERT_TRUE(e) << n;
    ASSERT_EQ(e->payload, std::to_string(n));
  }
}

TEST_F(embedded_hub_test, listens_after_a_position_that_is_in_memory) {
  mailbox first, again;
  embedded_hub hub{{.database = db.url()}};
  const auto a = hub.listen("a", first.handler());
  hub.post("a", "1");
  hub.post("a", "2");
  const auto one = first.next();
  first.next();
  const auto b = hub.listen("a", again.handler(), one->position);
  EXPECT_EQ(again.next()->payload, "2");
  EXPECT_THROW(hub.listen("a", again.handler(), "yesterday"), request_error);
}

TEST_F(embedded_hub_test, heals_after_the_database_died_and_says_that_something_may_be_missing) {
  mailbox box;
  embedded_hub hub{{.database = db.url()}};
  const auto a = hub.listen("a", box.handler());
  hub.post("a", "before");
  EXPECT_EQ(box.next()->payload, "before");
  db.on().kill_postmaster();
  db.psql("select postbus.post('a', 'perhaps missed'::text)");
  auto e = box.next();
  ASSERT_TRUE(e);
  EXPECT_TRUE(e->is_notice()) << to_json(*e);
  for (int i = 0; i < 1'000; ++i) {
    db.psql("select postbus.post('a', 'after'::text)");
    while (!box.empty()) {
      e = box.next();
      if (e->payload == "after") return;
    }
  }
  FAIL() << "nothing came after the restart";
}

TEST_F(embedded_hub_test, a_subscription_may_outlive_its_hub) {
  mailbox box;
  std::optional<hub_subscription> left;
  {
    embedded_hub hub{{.database = db.url()}};
    left = hub.listen("a", box.handler());
  }
  EXPECT_TRUE(left->ended());
  left->stop();
}

TEST(embedded_hub_refusals, name_the_fix) {
  const auto why = [](const std::string& url) -> std::string {
    try {
      embedded_hub hub{{.database = url}};
    } catch (const request_error& refused) {
      return refused.what();
    }
    return {};
  };
  const database bare{database::with::nothing};
  EXPECT_THAT(why(bare.url()), HasSubstr("setup"));
  testing_support::cluster without{{{"wal_level", "replica"}}};
  const database no_wal{without};
  EXPECT_THAT(why(no_wal.url()), HasSubstr("wal_level"));
  EXPECT_NE(why("postgresql://127.0.0.1:1/none"), "");
}

}  // namespace
}  // namespace postbus
