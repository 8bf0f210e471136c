#include "bus/hub.hpp"

#include <gtest/gtest.h>

#include <random>

#include "bus/shard.hpp"

namespace postbus::bus {
namespace {

constexpr std::uint32_t epoch = 0x5f3a9c01;

void encode(std::string& out, const event& e) { out.append(e.payload).push_back(';'); }
std::array<encoder, max_wire_forms> encoders() { return {encode, encode, encode, encode, encode, encode, encode, encode}; }

/** Reads everything at once, or as much as `takes` bytes a turn. */
class reader : public cursor {
public:
  void on_pending() override {
    const auto some = pending().substr(0, takes);
    got += some;
    advance(some.size());
  }
  std::string got;
  std::size_t takes{SIZE_MAX};
};

struct bus_fixture : testing::Test {
  bus_fixture() { hub_.begin({epoch, 100, 0}); }
  void post(std::string_view channel, std::string_view payload, std::uint64_t lsn) {
    auto one = std::make_shared<batch>();
    one->add(channel, kind::message, payload_form::text, payload, {epoch, lsn, 0}, 0);
    hub_.publish(one);
  }
  void turn() {
    shard_.deliver();
    shard_.flush();
  }
  static std::string texts(const replay& r) {
    std::string all;
    for (const auto& e : r.events) all.append(e->kind == kind::message ? e->payload : to_text(e->kind)).push_back(' ');
    return all;
  }
  hub hub_{{.history_bytes = 16 * 1024}};
  int rung{};
  shard shard_{hub_, encoders(), [this] { ++rung; }};
};

TEST_F(bus_fixture, derived_events_follow_their_base_event_and_are_no_history) {
  destination view{"t\x1fview"}, other{"t\x1fother"};
  const auto publish = [&](std::uint64_t lsn) {
    auto some = std::make_shared<batch>();
    some->add("t", kind::message, payload_form::json, "1", {epoch, lsn, 0}, 5).xid = 7;
    some->add("t", kind::message, payload_form::json, "2", {epoch, lsn, 1}, 5);
    some->derive(0, view, kind::message, some->events()[0]->payload);
    some->derive(1, other, kind::message, "nobody listens");
    hub_.publish(some);
  };
  publish(101);
  struct : listener {
    void on_event(topic& of, const event_ref& e) override {
      EXPECT_EQ(e->seq != 0, true);
      heard += std::string{public_name(of.channel())} + (of.channel() == "t" ? "" : "'") + std::string{e->payload} + '@' +
               std::to_string(e->at.lsn) + ' ';
      if (of.channel() != "t") {
        EXPECT_EQ(e->xid, 7u);
        EXPECT_EQ(e->time, 5);
      }
    }
    std::string heard;
  } both;
  shard_.subscribe(both, "t", from_now{});
  const auto given = shard_.subscribe(both, "t\x1fview", from_beginning{}, "t");
  EXPECT_EQ(texts(given), "1 2 ") << "a view's history is its feed's";
  publish(102);
  turn();
  EXPECT_EQ(both.heard, "t1@102 t'1@102 t2@102 ");
  EXPECT_EQ(texts(hub_.history("t\x1fview", from_beginning{})), "");
  EXPECT_EQ(texts(hub_.history("t", from_beginning{})), "1 2 1 2 ");
  std::string json;
  auto alone = std::make_shared<batch>();
  append_event_json(json, alone->add("t\x1fview", kind::enter, payload_form::json, "1", {epoch, 1, 0}, 0));
  EXPECT_NE(json.find(R"("channel":"t",)"), std::string::npos);
  shard_.unsubscribe(both, "t");
  shard_.unsubscribe(both, "t\x1fview");
}

// A destination remembers what was found under its name; the channel may be forgotten and come anew all the same.
TEST_F(bus_fixture, derived_events_find_whoever_is_there_now) {
  destination to{"t\x1fview"};
  std::uint64_t lsn = 100;
  const auto publish = [&](std::string_view text) {
    auto some = std::make_shared<batch>();
    some->add("t", kind::message, payload_form::text, text, {epoch, ++lsn, 0}, 0);
    some->derive(0, to, kind::message, some->events()[0]->payload);
    hub_.publish(some);
    turn();
  };
  publish("nobody");
  shard other{hub_, encoders(), [] {}};
  reader one, two, three;
  shard_.subscribe(one, 0, "t\x1fview", from_now{}, "t");
  publish("first");
  other.subscribe(two, 0, "t\x1fview", from_now{}, "t");
  publish("both");
  shard_.unsubscribe(one);
  publish("second");
  other.deliver();
  other.flush();
  other.unsubscribe(two);
  EXPECT_TRUE(std::ranges::none_of(hub_.summary(9), [](const auto& c) { return c.name != "t"; })) << "nobody is there: forgotten";
  publish("nobody");
  shard_.subscribe(three, 0, "t\x1fview", from_now{}, "t");
  publish("third");
  EXPECT_EQ(one.got, "first;both;");
  EXPECT_EQ(two.got, "both;second;");
  EXPECT_EQ(three.got, "third;");
  shard_.unsubscribe(three);
}

TEST_F(bus_fixture, an_ended_channel_tells_its_readers_behind_everything_else) {
  struct ending : reader {
    void on_ended() override { ended = true; }
    bool ended{};
  } r;
  shard_.subscribe(r, 0, "t\x1fview", from_now{}, "t");
  auto some = std::make_shared<batch>();
  some->add("t", kind::message, payload_form::json, "1", {epoch, 101, 0}, 5);
  destination view{"t\x1fview"};
  some->derive(0, view, kind::message, "mine");
  some->derive(0, view, kind::ended, "");
  hub_.publish(some);
  shard_.deliver();
  EXPECT_TRUE(r.ended);
  shard_.flush();
  EXPECT_EQ(r.got, "mine;");
  shard_.unsubscribe(r);
}

TEST_F(bus_fixture, a_subscriber_gets_what_is_published_after_it_came_and_nothing_else) {
  post("a", "before", 101);
  reader r;
  EXPECT_EQ(shard_.subscribe(r, 0, "a", from_now{}).at, (position{epoch, 101, 0}));
  post("a", "one", 102);
  post("b", "other", 103);
  post("a", "two", 104);
  turn();
  EXPECT_EQ(r.got, "one;two;");
  EXPECT_EQ(rung, 1) << "rings once while the inbox is not empty";
  shard_.unsubscribe(r);
  post("a", "after", 105);
  turn();
  EXPECT_EQ(r.got, "one;two;");
  EXPECT_EQ(shard_.topics(), 0u);
}

TEST_F(bus_fixture, a_second_subscriber_does_not_see_what_was_pending_for_the_first) {
  reader first, second;
  shard_.subscribe(first, 0, "a", from_now{});
  post("a", "one", 101);
  shard_.subscribe(second, 0, "a", from_now{});
  post("a", "two", 102);
  turn();
  EXPECT_EQ(first.got, "one;two;");
  EXPECT_EQ(second.got, "two;");
}

TEST_F(bus_fixture, resume_replays_what_came_after_the_position_and_then_goes_on) {
  post("a", "one", 101);
  post("b", "x", 102);
  post("a", "two", 103);
  reader r;
  EXPECT_EQ(texts(shard_.subscribe(r, 0, "a", position{epoch, 101, 0})), "two ");
  post("a", "three", 104);
  turn();
  EXPECT_EQ(r.got, "three;");
  EXPECT_EQ(texts(hub_.history("a", from_beginning{})), "one two three ");
  EXPECT_EQ(texts(hub_.history("a", from_beginning{}, {.events = 2})), "one two ");
  EXPECT_EQ(hub_.history("a", from_beginning{}, {.events = 2}).at, (position{epoch, 103, 0})) << "a cut answer says where to go on";
}

TEST_F(bus_fixture, a_position_before_the_history_or_of_another_epoch_is_never_answered_with_silence) {
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 99, 0})), "reset ") << "before all that this process knows";
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, 0})), "");
  EXPECT_EQ(texts(hub_.history("a", position{epoch + 1, 100, 0})), "reset ");
  post("a", "old", 101);
  for (std::uint64_t lsn = 102; lsn < 1000; ++lsn) post("b", std::string(100, 'x'), lsn);
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, 0})), "gap ") << "the channel's only event was dropped, and the channel forgotten";
  EXPECT_TRUE(texts(hub_.history("b", position{epoch, 500, 0})).starts_with("gap "));
  EXPECT_EQ(texts(hub_.history("b", position{epoch, 999, 0})), "");
  EXPECT_EQ(texts(hub_.history("quiet", position{epoch, 999, 0})), "");
}

TEST_F(bus_fixture, a_channel_that_is_forgotten_amid_its_replay_is_told_as_a_gap) {
  for (std::uint64_t lsn = 101; lsn < 111; ++lsn) post("a", std::string(100, 'x'), lsn);
  const auto some = hub_.history("a", position{epoch, 100, 0}, {.events = 3});
  ASSERT_FALSE(some.end);
  for (std::uint64_t lsn = 111; lsn < 1000; ++lsn) post("b", std::string(100, 'x'), lsn);
  EXPECT_EQ(texts(hub_.history("a", some.next)), "gap ");
  const auto later = hub_.history("b", position{epoch, 990, 0}, {.events = 3});
  EXPECT_EQ(texts(hub_.history("a", later.next)), "") << "nor is there a gap for who is behind what has gone";
}

TEST_F(bus_fixture, a_gap_of_plain_notify_concerns_only_channels_that_it_reaches) {
  const std::string long_name(64, 'x');
  reader plain, feed, long_one;
  shard_.subscribe(plain, 0, "a", from_now{});
  shard_.subscribe(feed, 0, "table:public.t", from_now{});
  shard_.subscribe(long_one, 0, long_name, from_now{});
  hub_.announce_gap({epoch, 100, 0}, {epoch, 101, 0}, "notify", channels::plain);
  turn();
  EXPECT_NE(plain.got, "");
  EXPECT_EQ(feed.got, "");
  EXPECT_EQ(long_one.got, "");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, 0})), "gap ");
  EXPECT_EQ(texts(hub_.history("table:public.t", position{epoch, 100, 0})), "");
}

TEST_F(bus_fixture, a_quiet_channel_with_a_listener_is_resumed_without_a_false_gap) {
  reader r;
  shard_.subscribe(r, 0, "a", from_now{});
  post("a", "one", 101);
  for (std::uint64_t lsn = 102; lsn < 1000; ++lsn) post("b", std::string(100, 'x'), lsn);
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 101, 0})), "") << "its last event is at that position: nothing was missed";
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, 0})), "gap ");
}

TEST_F(bus_fixture, everybody_is_told_of_a_gap_and_so_is_whoever_resumes_from_before_it) {
  reader a, b;
  shard_.subscribe(a, 0, "a", from_now{});
  shard_.subscribe(b, 1, "b", from_now{});
  post("a", "one", 101);
  hub_.announce_gap({epoch, 101, 0}, {epoch, 200, 0}, "reconnect");
  post("a", "two", 201);
  turn();
  const std::string gap =
      R"({"from":"5f3a9c01-0000000000000065-00000000","to":"5f3a9c01-00000000000000c8-00000000","reason":"reconnect"};)";
  EXPECT_EQ(a.got, "one;" + gap + "two;");
  EXPECT_EQ(b.got, gap);
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, 0})), "one gap two ");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 101, 0})), "gap two ");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 200, 0})), "two ");
}

TEST_F(bus_fixture, a_gap_that_is_told_late_stands_where_it_was_told) {
  reader a;
  shard_.subscribe(a, 0, "a", from_now{});
  post("a", "one", 101);
  post("a", "two", 201);
  hub_.announce_gap({epoch, 100, 0}, {epoch, 150, 0}, "mirror");
  post("a", "three", 301);
  turn();
  const auto kept = hub_.history("a", position{epoch, 100, 0});
  EXPECT_EQ(texts(kept), "one two gap three ");
  EXPECT_TRUE(std::ranges::is_sorted(kept.events, {}, [](const auto& e) { return e->at; })) << "who resumes after it gets nothing again";
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 180, 0})), "two gap three ") << "who was away knows nothing of it";
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 301, 0})), "");
}

TEST_F(bus_fixture, a_reset_drops_history_and_starts_a_new_epoch) {
  reader a;
  shard_.subscribe(a, 0, "a", from_now{});
  post("a", "one", 101);
  hub_.announce_reset({epoch + 1, 50, 0}, "restored");
  turn();
  EXPECT_EQ(a.got,
            "one;"
            R"({"position":"5f3a9c02-0000000000000032-00000000","reason":"restored"};)");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 101, 0})), "reset ");
  EXPECT_EQ(texts(hub_.history("a", position{epoch + 1, 50, 0})), "");
}

TEST_F(bus_fixture, plain_notifications_get_the_last_lsn_and_an_index_of_their_own) {
  post("a", "one", 101);
  for (int i = 0; i < 2; ++i) {
    auto plain = std::make_shared<batch>();
    plain->add("a", kind::message, payload_form::text, "plain", {}, 0);
    hub_.publish(plain);
  }
  const auto all = hub_.history("a", from_beginning{});
  const auto first = all.events[1]->at;
  EXPECT_TRUE(first.from_notify());
  EXPECT_EQ(first.lsn, 101u);
  EXPECT_EQ(all.events[2]->at, (position{epoch, 101, first.index + 1}));
  post("a", "two", 102);
  EXPECT_EQ(hub_.head(), (position{epoch, 102, 0}));
}

TEST_F(bus_fixture, plain_notifications_wait_for_the_end_of_a_transaction_that_comes_in_pieces) {
  reader r;
  shard_.subscribe(r, 0, "a", from_now{});
  const auto publish = [&](std::string_view payload, position at, part of_last) {
    auto one = std::make_shared<batch>();
    one->add("a", kind::message, payload_form::text, payload, at, 0);
    hub_.publish(one, of_last);
  };
  const auto resumed_after = [&](std::string_view payload) {
    for (const auto& e : hub_.history("a", from_beginning{}).events)
      if (e->payload == payload) return texts(hub_.history("a", e->at));
    return std::string{"it is not there"};
  };
  publish("1", {epoch, 200, 0}, part::piece);
  publish("plain", {}, part::whole);
  hub_.advance({epoch, 150, 0});  // what was applied before it
  publish("2", {epoch, 200, 1}, part::piece);
  publish("plain too", {}, part::whole);
  turn();
  EXPECT_EQ(r.got, "1;2;");
  publish("3", {epoch, 200, 2}, part::whole);
  turn();
  EXPECT_EQ(r.got, "1;2;3;plain;plain too;");
  EXPECT_EQ(resumed_after("1"), "2 3 plain plain too ");
  EXPECT_EQ(resumed_after("plain"), "plain too ");
  publish("at once", {}, part::whole);
  turn();
  EXPECT_EQ(resumed_after("plain too"), "at once ");

  // Where its last piece brings no event, the commit ends it; where the rest of it is lost, what tells of that.
  publish("4", {epoch, 300, 0}, part::piece);
  publish("behind 4", {}, part::whole);
  hub_.advance({epoch, 300, position::end_of_commit});
  EXPECT_EQ(resumed_after("4"), "behind 4 ");
  publish("5", {epoch, 400, 0}, part::piece);
  publish("behind 5", {}, part::whole);
  hub_.announce_gap({epoch, 300, position::end_of_commit}, {epoch, 450, position::end_of_commit}, "reconnect");
  EXPECT_EQ(resumed_after("5"), "gap behind 5 ");
  publish("6", {epoch, 500, 0}, part::piece);
  publish("in another epoch", {}, part::whole);
  hub_.announce_reset({epoch + 1, 50, 0}, "epoch");
  EXPECT_EQ(texts(hub_.history("a", position{epoch + 1, 50, 0})), "in another epoch ");
}

TEST_F(bus_fixture, plain_notifications_that_would_wait_beyond_the_bound_are_told_as_a_gap) {
  hub small{{.history_bytes = 1 << 20, .inbox_bytes = 4096}};
  small.begin({epoch, 100, 0});
  const auto publish = [&](std::string_view payload, position at, part of_last) {
    auto one = std::make_shared<batch>();
    one->add("a", kind::message, payload_form::text, payload, at, 0);
    small.publish(one, of_last);
  };
  publish("1", {epoch, 200, 0}, part::piece);
  for (int i = 0; i < 100; ++i) publish(std::string(100, 'x'), {}, part::whole);
  publish("last", {}, part::whole);
  publish("2", {epoch, 200, 1}, part::whole);
  const auto told = texts(small.history("a", position{epoch, 200, 0}));
  EXPECT_TRUE(told.starts_with("2 gap x")) << told;
  EXPECT_TRUE(told.ends_with(" last "));
  EXPECT_LT(told.size(), 4096u);

  shard there{small, encoders(), [] {}};
  reader r;
  there.subscribe(r, 0, "a", from_now{});
  publish("3", {epoch, 300, 0}, part::piece);
  for (int i = 0; i < 100; ++i) publish(std::string(100, 'y'), {}, part::whole);
  publish("last of all", {}, part::whole);
  small.announce_reset({epoch + 1, 50, 0}, "epoch");
  there.deliver();
  there.flush();
  const auto reset = r.got.find(R"("reason":"epoch"};)"), gap = r.got.find(R"({"from":"5f3a9c02-)");
  EXPECT_LT(reset, gap) << r.got;
  EXPECT_NE(gap, std::string::npos) << "a gap of the new epoch: " << r.got;
  const auto anew = texts(small.history("a", position{epoch + 1, 50, 0}));
  EXPECT_TRUE(anew.starts_with("gap y")) << anew;
  EXPECT_TRUE(anew.ends_with(" last of all "));
}

TEST_F(bus_fixture, a_position_that_another_process_gave_a_notification_is_answered_with_a_gap) {
  auto plain = std::make_shared<batch>();
  plain->add("a", kind::message, payload_form::text, "plain", {}, 0);
  hub_.publish(plain);
  const auto own = hub_.history("a", from_beginning{}).events[0]->at;
  EXPECT_EQ(texts(hub_.history("a", own)), "");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 100, own.index + 1000})), "gap ");
  EXPECT_EQ(texts(hub_.history("a", position{epoch, 99, own.index})), "gap plain ");
}

TEST_F(bus_fixture, a_slow_reader_is_a_lagging_cursor_that_others_do_not_feel) {
  reader slow, quick;
  slow.takes = 1;
  shard_.subscribe(slow, 0, "a", from_now{});
  shard_.subscribe(quick, 0, "a", from_now{});
  for (std::uint64_t i = 0; i < 10; ++i) post("a", std::to_string(i), 101 + i);
  turn();
  EXPECT_EQ(quick.got, "0;1;2;3;4;5;6;7;8;9;");
  EXPECT_EQ(slow.got, "0");
  EXPECT_EQ(slow.bytes_to_boundary(), 1u);
  EXPECT_EQ(slow.lag(), 16u) << "eight whole events between the one being sent and the newest";
  slow.takes = SIZE_MAX;
  slow.on_pending();
  EXPECT_EQ(slow.got, quick.got);
  post("a", "x", 200);
  turn();
  EXPECT_EQ(shard_.retained(), 0u) << "what all have read is forgotten";
}

TEST_F(bus_fixture, publish_says_when_a_shard_does_not_keep_up) {
  hub small{{.history_bytes = 1 << 20, .inbox_bytes = 4096}};
  shard late{small, encoders(), [] {}};
  small.begin({epoch, 1, 0});
  reader r;
  late.subscribe(r, 0, "a", from_now{});
  bool room = true;
  for (std::uint64_t lsn = 2; lsn < 100 && room; ++lsn) {
    auto one = std::make_shared<batch>();
    one->add("a", kind::message, payload_form::text, std::string(100, 'x'), {epoch, lsn, 0}, 0);
    room = small.publish(one);
  }
  EXPECT_FALSE(room);
  late.deliver();
  EXPECT_TRUE(small.has_room());
}

// A model with a random schedule: whatever the order of posts, turns, subscriptions and partial sends, each reader gets
// exactly the events from its start to its end.
TEST(bus_model, each_reader_gets_each_event_once_and_in_order) {
  std::mt19937 random{20261122};
  for (int round = 0; round < 200; ++round) {
    hub h{{.history_bytes = 1 << 20}};
    h.begin({epoch, 1, 0});
    shard s{h, encoders(), [] {}};
    struct tracked {
      std::unique_ptr<reader> r = std::make_unique<reader>();
      std::string expected;
      std::size_t channel{};
    };
    std::vector<tracked> readers;
    std::array<std::vector<std::pair<position, std::string>>, 3> log;
    const std::array<std::string, 3> names{"a", "b", "c"};
    std::uint64_t lsn = 1;
    for (int step = 0; step < 200; ++step) {
      const auto channel = random() % 3;
      switch (random() % 6) {
        case 0: {
          tracked t;
          t.channel = channel;
          t.r->takes = 1 + random() % 5;
          const auto skip = random() % 4;
          const auto& past = log[channel];
          start from = from_now{};
          if (skip < past.size()) from = past[past.size() - 1 - skip].first;
          for (const auto& e : s.subscribe(*t.r, static_cast<wire_form>(random() % 2), names[channel], from).events) encode(t.r->got, *e);
          if (skip < past.size())
            for (auto i = past.size() - skip; i < past.size(); ++i) t.expected += past[i].second + ";";
          readers.push_back(std::move(t));
          break;
        }
        case 1:
          if (!readers.empty()) {
            auto& t = readers[random() % readers.size()];
            t.r->on_pending();
          }
          break;
        case 2:
          s.deliver();
          s.flush();
          break;
        default: {
          const auto text = std::to_string(++lsn);
          auto one = std::make_shared<batch>();
          one->add(names[channel], kind::message, payload_form::text, text, {epoch, lsn, 0}, 0);
          h.publish(one);
          log[channel].emplace_back(position{epoch, lsn, 0}, text);
          for (auto& t : readers)
            if (t.channel == channel) t.expected += text + ";";
        }
      }
    }
    s.deliver();
    for (auto& t : readers) {
      t.r->takes = SIZE_MAX;
      t.r->on_pending();
      ASSERT_EQ(t.r->got, t.expected) << "round " << round;
      s.unsubscribe(*t.r);
    }
    EXPECT_EQ(s.topics(), 0u);
  }
}

// Readers that come back and take what they missed in portions, while events are published, history moves on and gaps are
// told. Message n of a channel is its text: each must come once and in order, and where one is missing a gap came in its place.
TEST(bus_model, a_replay_in_portions_joins_what_is_live_and_tells_what_it_lost) {
  struct returning final : listener {
    void on_event(topic&, const event_ref& e) override { take(*e); }
    void take(const event& e) {
      if (e.kind != kind::message) {
        ++notes;
        noted = true;
        return;
      }
      const auto n = std::stoull(std::string{e.payload});
      EXPECT_TRUE(n == next || (noted && n > next)) << n << " after " << next - 1;
      next = n + 1;
      noted = false;
    }
    progress from;
    std::size_t channel{}, portions{}, notes{};
    std::uint64_t next{};
    bool joined{}, noted{};
  };
  std::mt19937 random{20261126};
  std::size_t in_portions = 0, overtaken = 0;
  for (int round = 0; round < 60; ++round) {
    const bool all_is_kept = round % 2 == 0;
    hub h{{.history_bytes = all_is_kept ? 4u << 20 : 64u << 10}};
    h.begin({epoch, 1, 0});
    shard s{h, encoders(), [] {}};
    const std::array<std::string, 3> names{"a", "b", "c"};
    std::array<std::vector<position>, 3> log;
    std::vector<std::unique_ptr<returning>> readers;
    std::uint64_t lsn = 1;
    std::size_t gaps = 0;
    for (int step = 0; step < 600; ++step) {
      switch (random() % 8) {
        case 0: {
          auto r = std::make_unique<returning>();
          r->channel = random() % 3;
          auto& past = log[r->channel];
          const auto back = random() % (past.size() + 1);
          if (back != 0) {
            r->next = past.size() - back + 1;
            r->from = past[past.size() - back];
          } else {
            r->from = position{epoch, 1, 0};
          }
          readers.push_back(std::move(r));
          break;
        }
        case 1:
        case 2:
          for (auto& r : readers) {
            if (r->joined || random() % 2 == 0) continue;
            auto given = s.subscribe(*r, names[r->channel], r->from, {}, {.bytes = 1 + random() % 3000});
            ASSERT_TRUE(given.end || !given.events.empty());
            for (const auto& e : given.events) r->take(*e);
            r->from = given.next;
            r->joined = given.end;
            ++r->portions;
          }
          break;
        case 3: s.deliver(); break;
        case 4:
          if (random() % 40 == 0) {
            const auto head = h.head();
            h.announce_gap(head, head, "test");
            ++gaps;
          }
          break;
        default: {
          auto some = std::make_shared<batch>();
          ++lsn;
          for (auto n = 1 + random() % 12; n > 0; --n) {
            auto& of = log[random() % 5 % 3];
            const position at{epoch, lsn, static_cast<std::uint32_t>(n == 0 ? 0 : 12 - n)};
            some->add(names[static_cast<std::size_t>(&of - log.data())], kind::message, payload_form::text, std::to_string(of.size()), at,
                      0);
            of.push_back(at);
          }
          h.publish(some);
        }
      }
    }
    for (auto& r : readers) {
      while (!r->joined) {
        auto given = s.subscribe(*r, names[r->channel], r->from, {}, {.bytes = 1000});
        for (const auto& e : given.events) r->take(*e);
        r->from = given.next;
        r->joined = given.end;
        ++r->portions;
      }
    }
    s.deliver();
    for (auto& r : readers) {
      EXPECT_TRUE(r->next == log[r->channel].size() || r->noted) << "the end is missing";
      if (all_is_kept) EXPECT_LE(r->notes, gaps) << "a gap that nobody announced";
      in_portions += r->portions > 1;
      overtaken += r->notes > gaps;
      s.unsubscribe(*r, names[r->channel]);
    }
    EXPECT_EQ(s.topics(), 0u);
  }
  EXPECT_GT(in_portions, 100u);
  EXPECT_GT(overtaken, 10u);
}

TEST(bus, a_reset_before_the_first_event_of_all_is_told_once_however_large_what_follows) {
  hub h;
  h.begin({epoch, 100, 0});
  shard s{h, encoders(), [] {}};
  auto large = std::make_shared<batch>();
  large->add("a", kind::message, payload_form::text, std::string(100'000, 'x'), {epoch, 101, 0}, 0);
  h.publish(large);
  const position old{epoch, 50, 0};
  reader c;
  const auto first = s.subscribe(c, 0, "a", old, {}, {.bytes = 64 * 1024});
  ASSERT_EQ(bus_fixture::texts(first), "reset ");
  ASSERT_FALSE(first.end);
  const auto second = s.subscribe(c, 0, "a", first.next, {}, {.bytes = 64 * 1024});
  ASSERT_EQ(second.events.size(), 1u);
  EXPECT_EQ(second.events[0]->kind, kind::message);
  EXPECT_TRUE(second.end);
  s.unsubscribe(c);
  const hub::lane lanes[] = {{"a", old}, {"b", old}};
  const auto both = h.history(lanes, {.bytes = 64 * 1024});
  const hub::lane rest[] = {{"a", both.next}, {"b", both.next}};
  EXPECT_EQ(h.history(rest, {.bytes = 64 * 1024}).events.back()->kind, kind::message);
}

TEST_F(bus_fixture, several_channels_are_replayed_in_portions_in_one_order) {
  hub kept{{.history_bytes = 1u << 20}};
  kept.begin({epoch, 1, 0});
  std::mt19937 random{7};
  std::string expected;
  const std::array<std::string, 3> names{"a", "b", "c"};
  for (std::uint64_t lsn = 2; lsn < 1500; ++lsn) {
    const auto text = std::to_string(lsn);
    auto one = std::make_shared<batch>();
    one->add(names[random() % 7 % 3], kind::message, payload_form::text, text, {epoch, lsn, 0}, 0);
    kept.publish(one);
    expected += text + ' ';
    if (lsn % 400 == 0) {
      kept.announce_gap({epoch, lsn, 0}, {epoch, lsn, 0}, "test");
      expected += "gap gap gap ";
    }
  }
  std::vector<hub::lane> lanes;
  for (const auto& name : names) lanes.push_back({name, position{epoch, 1, 0}});
  std::string got;
  int portions = 0;
  for (bool end = false; !end; ++portions) {
    const auto given = kept.history(lanes, {.bytes = 4096});
    EXPECT_LT(given.events.size(), 100u);
    got += texts(given);
    for (auto& l : lanes) l.from = given.next;
    end = given.end;
  }
  EXPECT_EQ(got, expected);
  EXPECT_GT(portions, 20);
}

}  // namespace
}  // namespace postbus::bus
