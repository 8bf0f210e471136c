#include "changes/assembler.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "pgoutput_frames.hpp"

namespace postbus::changes {
namespace {

namespace wire = testing_support::wire;
using want = assembler::want;
using bus::position;

constexpr unix_micros noon = 1'795'000'000'000'000;

/** An assembler at the start of a stream, epoch 7. */
class assembling : public testing::Test {
protected:
  want feed(const std::string& payload) {
    auto taken = assembler_.take(wire::data(payload));
    EXPECT_TRUE(taken.has_value());
    return taken.has_value() ? *taken : want::nothing;
  }
  /** One transaction of messages on `channel`; what the commit wants. */
  want transaction(std::uint64_t end_lsn, std::initializer_list<std::string_view> contents, std::string_view prefix = "postbus:t:a") {
    feed(wire::begin(end_lsn - 0x30, noon, 740));
    for (const auto content : contents) feed(wire::message(prefix, content));
    return feed(wire::commit(end_lsn - 0x30, end_lsn, noon));
  }

  assembler assembler_{{.publish_bytes = 100'000, .transaction_bytes = 300'000}, nullptr};
  void SetUp() override { assembler_.start(7, 0x100, 740, 150020); }
};

TEST_F(assembling, gives_a_transaction_its_end_as_position) {
  EXPECT_EQ(transaction(0x200, {"one", "two"}), want::nothing);
  const auto batch = assembler_.committed();
  ASSERT_TRUE(batch);
  ASSERT_EQ(batch->events().size(), 2u);
  const auto& one = *batch->events()[0];
  EXPECT_EQ(one.at, (position{7, 0x200, 0}));
  EXPECT_EQ(one.channel, "a");
  EXPECT_EQ(one.payload, "one");
  EXPECT_EQ(one.time, noon);
  EXPECT_EQ(batch->events()[1]->at, (position{7, 0x200, 1}));
  EXPECT_EQ(assembler_.applied(), (position{7, 0x200, position::end_of_commit}));
  EXPECT_FALSE(assembler_.committed());
}

TEST_F(assembling, never_hands_out_an_open_transaction) {
  transaction(0x200, {"done"});
  feed(wire::begin(0x270, noon, 741));
  feed(wire::message("postbus:t:b", "half"));
  auto batch = assembler_.committed();
  ASSERT_EQ(batch->events().size(), 1u);
  EXPECT_EQ(batch->events()[0]->payload, "done");
  EXPECT_FALSE(assembler_.committed());
  feed(wire::message("postbus:t:b", "whole"));
  feed(wire::commit(0x270, 0x300, noon));
  batch = assembler_.committed();
  ASSERT_EQ(batch->events().size(), 2u);
  EXPECT_EQ(batch->events()[0]->payload, "half");
  EXPECT_EQ(batch->events()[0]->channel, "b");
  EXPECT_EQ(batch->events()[0]->at, (position{7, 0x300, 0}));
  EXPECT_EQ(batch->events()[1]->at, (position{7, 0x300, 1}));
}

TEST_F(assembling, keep_alives_count_between_transactions_only) {
  ASSERT_TRUE(assembler_.take(wire::alive(0x180)));
  EXPECT_EQ(assembler_.applied().lsn, 0x180u);
  feed(wire::begin(0x270, noon, 741));
  ASSERT_TRUE(assembler_.take(wire::alive(0x900)));
  EXPECT_EQ(assembler_.applied().lsn, 0x180u);
  feed(wire::commit(0x270, 0x300, noon));
  EXPECT_EQ(assembler_.applied().lsn, 0x300u);
  ASSERT_TRUE(assembler_.take(wire::alive(0x200)));
  EXPECT_EQ(assembler_.applied().lsn, 0x300u) << "never backwards";
  ASSERT_TRUE(assembler_.take(wire::alive(0x4000)));
  EXPECT_EQ(assembler_.applied().lsn, 0x4028u) << "nothing can end within a page's header";
}

TEST_F(assembling, drops_what_post_cannot_have_made) {
  const std::string long_name(256, 'x');
  transaction(0x200, {"{}"}, "postbus:t:table:public.orders");
  transaction(0x300, {"{}"}, "postbus:t:");
  transaction(0x400, {"{}"}, "postbus:t:" + long_name);
  transaction(0x500, {"{}"}, "postbus:t:a\nb");
  transaction(0x600, {"{}"}, "other:t:a");
  transaction(0x700, {"\xff\xfe"});
  transaction(0x800, {"{", "1},{\"id\":2", ""}, "postbus:j:a");
  transaction(0x900, {""}, "postbus:flush");
  feed(wire::message("postbus:t:a", "outside", false));
  EXPECT_FALSE(assembler_.committed());
  EXPECT_EQ(assembler_.applied().lsn, 0x900u);
  feed(wire::begin(0xb00, noon, 741));
  feed(wire::message("postbus:t:a", "immediate, as it looks when it is sent within a transaction", false));
  feed(wire::commit(0xb00, 0xb30, noon));
  EXPECT_FALSE(assembler_.committed());
}

TEST_F(assembling, text_and_json_keep_their_form) {
  transaction(0x200, {R"({"a": [1, 2.50, "x"]})"}, "postbus:j:a");
  transaction(0x300, {R"({"a": 1})"}, "postbus:t:a");
  const auto batch = assembler_.committed();
  ASSERT_EQ(batch->events().size(), 2u);
  EXPECT_EQ(batch->events()[0]->form, bus::payload_form::json);
  EXPECT_EQ(batch->events()[0]->payload, R"({"a": [1, 2.50, "x"]})");
  EXPECT_EQ(batch->events()[1]->form, bus::payload_form::text);
}

TEST_F(assembling, asks_to_be_emptied) {
  const std::string large(60'000, 'x');
  EXPECT_EQ(transaction(0x200, {large}), want::nothing);
  EXPECT_EQ(transaction(0x300, {large}), want::publish);
  EXPECT_EQ(assembler_.committed()->events().size(), 2u);
  // Within a transaction too, so that a large one stands alone in its batch.
  transaction(0x400, {"small"});
  feed(wire::begin(0x470, noon, 741));
  EXPECT_EQ(feed(wire::message("postbus:t:b", large)), want::nothing);
  EXPECT_EQ(feed(wire::message("postbus:t:b", large)), want::publish);
  EXPECT_EQ(assembler_.committed()->events().size(), 1u);
  EXPECT_EQ(feed(wire::message("postbus:t:b", large)), want::nothing);
  EXPECT_EQ(feed(wire::commit(0x470, 0x500, noon)), want::publish);
  EXPECT_EQ(assembler_.committed()->events().size(), 3u);
}

TEST_F(assembling, a_transaction_beyond_the_bound_is_a_loss_that_is_told) {
  const std::string large(100'000, 'x');
  transaction(0x200, {"before"});
  feed(wire::begin(0x270, noon, 999));
  for (int i = 0; i < 10; ++i)
    if (feed(wire::message("postbus:t:b", large)) == want::publish) EXPECT_EQ(assembler_.committed()->events().size(), 1u);
  EXPECT_EQ(feed(wire::commit(0x270, 0x300, noon)), want::announce);
  EXPECT_FALSE(assembler_.committed());
  EXPECT_EQ(assembler_.lost().from, (position{7, 0x200, position::end_of_commit}));
  EXPECT_EQ(assembler_.lost().to, (position{7, 0x300, position::end_of_commit}));
  EXPECT_EQ(assembler_.lost().xid, 999u);
  transaction(0x400, {"after"});
  EXPECT_EQ(assembler_.committed()->events()[0]->payload, "after");
}

TEST_F(assembling, a_stream_that_ends_takes_its_open_transaction_along) {
  transaction(0x200, {"done"});
  feed(wire::begin(0x270, noon, 741));
  feed(wire::message("postbus:t:b", "half"));
  assembler_.stop();
  EXPECT_EQ(assembler_.committed()->events().size(), 1u);
  assembler_.start(7, 0x900, 742, 150020);
  transaction(0xa00, {"anew"});
  const auto batch = assembler_.committed();
  ASSERT_EQ(batch->events().size(), 1u);
  EXPECT_EQ(batch->events()[0]->payload, "anew");
}

TEST_F(assembling, an_index_is_the_ordinal_of_its_change_whether_or_not_others_made_events) {
  feed(wire::begin(0x270, noon, 741));
  feed(wire::relation(1, "public", "unwatched", {{"id", 23, true}}));
  feed(wire::insert(1, {"1"}));
  feed(wire::message("other:prefix", ""));
  feed(wire::message("postbus:t:a", "second"));
  feed(wire::message("postbus:t:a", "no change of this transaction", false));
  feed(wire::truncate({1, 2}));
  feed(wire::message("postbus:t:a", "fifth"));
  feed(wire::commit(0x270, 0x300, noon));
  const auto batch = assembler_.committed();
  ASSERT_EQ(batch->events().size(), 2u);
  EXPECT_EQ(batch->events()[0]->at, (position{7, 0x300, 1}));
  EXPECT_EQ(batch->events()[1]->at, (position{7, 0x300, 4}));
}

TEST_F(assembling, hands_a_streamed_transaction_out_in_pieces_that_have_their_positions) {
  const std::string large(60'000, 'x');
  const postgres::pgoutput::commit end{.commit_lsn = 0x270, .end_lsn = 0x300, .commit_time = noon};
  transaction(0x200, {"before"});
  ASSERT_TRUE(assembler_.begin_streamed(741, end, noon));
  std::vector<position> given;
  const auto take_out = [&] {
    if (const auto batch = assembler_.committed())
      for (const auto* e : batch->events()) given.push_back(e->at);
  };
  for (int i = 0; i < 10; ++i) {
    if (assembler_.piece_is_full(0)) {
      take_out();
      EXPECT_TRUE(assembler_.midway());
    }
    ASSERT_TRUE(assembler_.take_streamed(wire::message("postbus:t:b", large), 0));
  }
  EXPECT_GT(given.size(), 5u) << "beyond the bound of an ordinary transaction, before its end";
  EXPECT_EQ(assembler_.applied().lsn, 0x200u);
  EXPECT_EQ(assembler_.resume_lsn(), 0x200u);
  EXPECT_EQ(assembler_.take(wire::data(wire::commit(0x270, 0x300, noon))).error().code, errc::protocol);
  ASSERT_TRUE(assembler_.end_streamed());
  take_out();
  EXPECT_FALSE(assembler_.midway());
  ASSERT_EQ(given.size(), 11u);
  for (std::uint32_t i = 0; i < 10; ++i) EXPECT_EQ(given[i + 1], (position{7, 0x300, i}));
  EXPECT_EQ(assembler_.resume_lsn(), 0x300u);
}

TEST_F(assembling, drops_what_it_handed_out_before_when_it_comes_again) {
  const std::string large(60'000, 'x');
  const postgres::pgoutput::commit end{.commit_lsn = 0x270, .end_lsn = 0x300, .commit_time = noon};
  ASSERT_TRUE(assembler_.begin_streamed(741, end, noon));
  std::size_t given = 0;
  for (int i = 0; i < 5; ++i) {
    if (assembler_.piece_is_full(0)) given += assembler_.committed()->events().size();
    ASSERT_TRUE(assembler_.take_streamed(wire::message("postbus:t:b", large), 0));
  }
  ASSERT_GT(given, 0u);
  ASSERT_LT(given, 5u);
  assembler_.stop();  // the connection broke
  while (assembler_.committed()) {
  }
  EXPECT_TRUE(assembler_.midway());
  assembler_.start(7, 0x100, 741, 150020);
  ASSERT_TRUE(assembler_.begin_streamed(741, end, noon));
  std::vector<std::uint32_t> again;
  const auto take_out = [&] {
    if (const auto batch = assembler_.committed())
      for (const auto* e : batch->events()) again.push_back(e->at.index);
  };
  for (int i = 0; i < 5; ++i) {
    if (assembler_.piece_is_full(0)) take_out();
    ASSERT_TRUE(assembler_.take_streamed(wire::message("postbus:t:b", large), 0));
  }
  EXPECT_TRUE(assembler_.midway());
  ASSERT_TRUE(assembler_.end_streamed());
  take_out();
  EXPECT_FALSE(assembler_.midway());
  ASSERT_EQ(again.size(), 5 - given);
  EXPECT_EQ(again.front(), given);
  EXPECT_EQ(again.back(), 4u);
}

TEST_F(assembling, what_was_handed_out_before_takes_no_memory_and_lets_the_loop_turn) {
  const std::string large(60'000, 'x');
  const postgres::pgoutput::commit end{.commit_lsn = 0x270, .end_lsn = 0x300, .commit_time = noon};
  const auto all = [&] {
    EXPECT_TRUE(assembler_.begin_streamed(741, end, noon));
    std::size_t turns = 0;
    for (int i = 0; i < 100; ++i) {
      if (assembler_.piece_is_full(0)) {
        ++turns;
        while (assembler_.committed()) {
        }
      }
      EXPECT_TRUE(assembler_.take_streamed(wire::message("postbus:t:b", large), 0));
    }
    return turns;
  };
  const auto turns = all();
  assembler_.stop();
  while (assembler_.committed()) {
  }
  assembler_.start(7, 0x100, 741, 150020);
  EXPECT_GE(all(), turns);
}

TEST_F(assembling, a_streamed_transaction_that_was_not_kept_is_a_loss) {
  transaction(0x200, {"before"});
  EXPECT_EQ(assembler_.lose_streamed(999, {.commit_lsn = 0x270, .end_lsn = 0x300, .commit_time = noon}).value(), want::announce);
  EXPECT_EQ(assembler_.lost().from, (position{7, 0x200, position::end_of_commit}));
  EXPECT_EQ(assembler_.lost().to, (position{7, 0x300, position::end_of_commit}));
}

TEST_F(assembling, says_where_a_stream_must_start_again) {
  EXPECT_EQ(assembler_.resume_lsn(), 0x100u);
  ASSERT_TRUE(assembler_.take(wire::alive(0x4000)));
  EXPECT_EQ(assembler_.resume_lsn(), 0x4000u) << "not behind a page's header: a commit may begin before that";
  feed(wire::begin(0x5000, noon, 741));
  ASSERT_TRUE(assembler_.take(wire::alive(0x9000)));
  EXPECT_EQ(assembler_.resume_lsn(), 0x4000u);
  feed(wire::commit(0x5000, 0x5030, noon));
  EXPECT_EQ(assembler_.resume_lsn(), 0x5030u);
}

TEST(assembler_rows, keep_what_events_were_made_from_when_an_open_transaction_moves_on) {
  struct keeper : row_handler {
    void started(int) override {}
    void relation(const transaction&, const postgres::pgoutput::relation&) override {}
    bool insert(const transaction& in, const postgres::pgoutput::insert&, bus::batch& out) override {
      auto& made = out.add("table:public.t", bus::kind::insert, bus::payload_form::json, "{}", {}, in.time);
      char* const bytes = out.allocate(4);
      std::copy_n("from", 4, bytes);
      made.origin = {bytes, 4};
      out.hold(held);
      return true;
    }
    bool update(const transaction&, const postgres::pgoutput::update&, bus::batch&) override { return true; }
    bool delete_(const transaction&, const postgres::pgoutput::delete_&, bus::batch&) override { return true; }
    void truncate(const transaction&, const postgres::pgoutput::truncate&, bus::batch&) override {}
    void internal(const transaction&, std::string_view, std::string_view) override {}
    bool wants_to_resolve() const override { return false; }
    boost::asio::awaitable<result<>> resolve() override { co_return result<>{}; }
    void committed(std::span<bus::event* const>, std::size_t) override {}
    void abandoned() override {}
    std::shared_ptr<const void> held = std::make_shared<int>(1);
  } rows;
  assembler made{{}, &rows};
  made.start(7, 16, 5, 150020);
  const auto feed = [&](const std::string& payload) { made.take(wire::data(payload)).value(); };
  feed(wire::begin(90, noon, 41));
  feed(wire::insert(1, {"1"}));
  feed(wire::commit(90, 100, noon));
  feed(wire::begin(190, noon, 42));
  feed(wire::insert(1, {"2"}));
  const auto first = made.committed();
  ASSERT_EQ(first->events().size(), 1u);
  EXPECT_EQ(first->events()[0]->xid, 41u);
  feed(wire::commit(190, 200, noon));
  const auto second = made.committed();
  ASSERT_EQ(second->events().size(), 1u);
  EXPECT_EQ(second->events()[0]->origin, "from");
  EXPECT_EQ(second->events()[0]->xid, 42u);
  EXPECT_EQ(rows.held.use_count(), 3) << "either batch holds it";
}

TEST_F(assembling, refuses_a_stream_out_of_order) {
  const auto broken = [&](const std::string& payload) {
    auto taken = assembler_.take(wire::data(payload));
    return taken.has_error() && taken.error().code == errc::protocol;
  };
  EXPECT_TRUE(broken(wire::commit(1, 2, noon)));
  EXPECT_TRUE(broken("nonsense"));
  feed(wire::begin(0x270, noon, 741));
  EXPECT_TRUE(broken(wire::begin(0x270, noon, 741)));
}

/** Notes what it is told. */
class notes : public row_handler {
public:
  std::string said;
  bool wants{}, refuses{};
  void started(int) override { said += "started "; }
  void relation(const transaction&, const postgres::pgoutput::relation& r) override { said += "relation:" + std::string{r.name} + ' '; }
  bool insert(const transaction& in, const postgres::pgoutput::insert& i, bus::batch& out) override {
    said += refuses ? "refused " : "insert:" + std::to_string(in.xid) + ' ';
    if (!refuses) out.add("table:public.t", bus::kind::insert, bus::payload_form::json, i.row.values().next()->bytes, {}, in.time);
    return !refuses;
  }
  bool update(const transaction&, const postgres::pgoutput::update&, bus::batch&) override {
    said += "update ";
    return true;
  }
  bool delete_(const transaction&, const postgres::pgoutput::delete_&, bus::batch&) override {
    said += "delete ";
    return true;
  }
  void truncate(const transaction&, const postgres::pgoutput::truncate&, bus::batch&) override { said += "truncate "; }
  void internal(const transaction&, std::string_view name, std::string_view) override {
    said += "internal:" + std::string{name} + ' ';
    wants = true;
  }
  bool wants_to_resolve() const override { return wants; }
  boost::asio::awaitable<result<>> resolve() override { co_return result<>{}; }
  void moved(std::size_t from) override { said += "moved:" + std::to_string(from) + ' '; }
  void committed(std::span<bus::event* const> events, std::size_t known) override {
    said += "committed:";
    if (known > 0) said += std::to_string(known) + " known ";
    for (const auto* e : events) said += std::to_string(e->at.index) + '@' + std::to_string(e->at.lsn) + ' ';
  }
  void abandoned() override { said += "abandoned "; }
};

TEST(assembler_rows, come_again_where_the_handler_must_look_something_up) {
  notes heard;
  assembler made{{}, &heard};
  made.start(7, 16, 5, 150020);
  const auto feed = [&](const std::string& payload) { return made.take(wire::data(payload)).value(); };
  feed(wire::begin(90, noon, 41));
  feed(wire::relation(1, "public", "t", {{"id", 23, true}}));
  feed(wire::insert(1, {"1"}));
  heard.refuses = true;
  EXPECT_EQ(feed(wire::insert(1, {"2"})), want::again);
  heard.refuses = false;
  EXPECT_EQ(feed(wire::insert(1, {"2"})), want::nothing);
  feed(wire::commit(90, 100, noon));
  EXPECT_EQ(heard.said, "started relation:t insert:41 refused insert:41 committed:0@100 1@100 ") << "it has taken no index";
  EXPECT_EQ(made.committed()->events().size(), 2u);
}

std::string order(const bus::batch& events) {
  std::string all;
  for (const auto* e : events.events()) all += fmt::format("{}:{} ", e->at.index, e->payload);
  return all;
}

// The server takes for a message's place where its record ends, and of two changes at one place it may tell either first.
TEST(assembler_rows, come_behind_a_message_that_ends_where_their_record_begins) {
  notes heard;
  assembler made{{}, &heard};
  made.start(7, 16, 5, 150020);
  const auto feed = [&](const std::string& payload, std::uint64_t at) { made.take(wire::data(payload, 0, at)).value(); };
  const auto close = [&](std::uint64_t end) {
    feed(wire::commit(end - 10, end, noon), 0);
    return order(*made.committed());
  };
  feed(wire::begin(90, noon, 41), 0);
  feed(wire::insert(1, {"1"}), 10);
  feed(wire::insert(1, {"2"}), 20);
  feed(wire::insert(1, {"3"}), 20);
  feed(wire::message("postbus:t:a", "late"), 20);
  feed(wire::insert(1, {"4"}), 20);
  feed(wire::message("postbus:t:a", "next"), 30);
  feed(wire::insert(1, {"5"}), 30);
  EXPECT_EQ(close(100), "0:1 1:late 2:2 3:3 4:4 5:next 6:5 ");
  EXPECT_EQ(heard.said,
            "started insert:41 insert:41 insert:41 moved:1 insert:41 insert:41 committed:0@100 1@100 2@100 3@100 4@100 5@100 6@100 ");

  heard.said.clear();
  feed(wire::begin(190, noon, 42), 0);
  feed(wire::insert(1, {"1"}), 110);
  feed(wire::message("postbus:t:task:no channel", "counts, and is not told"), 110);
  feed(wire::message("others", "does not count"), 110);
  feed(wire::message("postbus:t:a", "of nowhere"), 0);
  EXPECT_EQ(close(200), "1:1 2:of nowhere ");
  EXPECT_EQ(heard.said, "insert:42 committed:1@200 2@200 ");

  feed(wire::begin(290, noon, 43), 0);
  feed(wire::message("postbus:t:a", "first of its transaction"), 110);
  EXPECT_EQ(close(300), "0:first of its transaction ");
}

TEST(assembler_rows, no_piece_of_a_streamed_transaction_ends_where_a_message_may_go_before_its_last_record) {
  notes heard;
  assembler made{{.publish_bytes = 1'000, .transaction_bytes = 300'000}, &heard};
  made.start(7, 16, 5, 150020);
  const std::string large(2'000, 'x');
  ASSERT_TRUE(made.begin_streamed(41, {.commit_lsn = 90, .end_lsn = 100, .commit_time = noon}, noon));
  std::string all;
  const auto take = [&](const std::string& payload, std::uint64_t at) {
    if (made.piece_is_full(at)) all += order(*made.committed()) + "| ";
    ASSERT_TRUE(made.take_streamed(payload, at));
  };
  take(wire::insert(1, {large}), 10);
  take(wire::insert(1, {large}), 20);
  take(wire::insert(1, {"2"}), 20);
  take(wire::message("postbus:t:a", "late"), 20);
  take(wire::insert(1, {"3"}), 20);
  take(wire::insert(1, {"4"}), 30);
  take(wire::message("postbus:t:b", "late too"), 30);
  ASSERT_TRUE(made.end_streamed());
  all += order(*made.committed());
  EXPECT_EQ(all, "0:" + large + " | 1:late 2:" + large + " 3:2 4:3 | 5:late too 6:4 ");
}

TEST(assembler_rows, reach_the_handler_in_order_and_get_positions_at_commit) {
  notes heard;
  assembler made{{}, &heard};
  made.start(7, 16, (std::uint64_t{3} << 32) + 5, 150020);
  const auto feed = [&](const std::string& payload) { return made.take(wire::data(payload)).value(); };
  feed(wire::begin(90, noon, 0xfffffff0));  // before the wrap of the 32-bit counter
  feed(wire::relation(1, "public", "t", {{"id", 23, true}}));
  feed(wire::insert(1, {"1"}));
  feed(wire::message("postbus:t:a", "between"));
  feed(wire::update(1, {"2"}));
  EXPECT_EQ(feed(wire::message("postbus:watched", "")), want::resolve);
  heard.wants = false;
  feed(wire::commit(90, 100, noon));
  EXPECT_EQ(heard.said, "started relation:t insert:12884901872 update internal:watched committed:0@100 1@100 ");
  feed(wire::begin(190, noon, 6));
  feed(wire::insert(1, {"3"}));
  EXPECT_NE(heard.said.find("insert:12884901894"), std::string::npos) << "after the wrap";
  made.stop();
  EXPECT_TRUE(heard.said.ends_with("abandoned "));
  EXPECT_EQ(made.committed()->events().size(), 2u);
  EXPECT_TRUE(made.take(wire::data("I")).has_error());
}

}  // namespace
}  // namespace postbus::changes
