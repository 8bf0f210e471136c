#include <gtest/gtest.h>

#include "client/listen_session.hpp"

namespace postbus::remote {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view p1 = "00000001-0000000000000010-00000000", p2 = "00000001-0000000000000020-00000000",
                           p9 = "00000001-0000000000000090-00000000";

std::string ok(int id, std::string_view at) {
  return R"({"id":)" + std::to_string(id) + R"(,"ok":{"position":")" + std::string{at} + R"("}})";
}
std::string message(int sub, std::string_view at, std::string_view kind = "message") {
  return R"({"sub":)" + std::to_string(sub) + R"(,"id":")" + std::string{at} + R"(","channel":"c","kind":")" + std::string{kind} +
         R"(","at":"t","payload":"x"})";
}
link_end lost(int close_code = 0, int status = 0) { return {.http_status = status, .close_code = close_code, .why = {errc::io, "lost"}}; }

TEST(listen_session, subscribes_to_each_channel_once_and_is_confirmed_by_all) {
  listen_session session{{"a", "b\"", "a"}, "", {}, 1};
  EXPECT_EQ(session.opened(),
            (std::vector<std::string>{R"({"id":1,"op":"subscribe","channel":"a"})", R"({"id":2,"op":"subscribe","channel":"b\""})"}));
  EXPECT_FALSE(session.confirmed());
  ASSERT_TRUE(session.received(ok(1, p1)));
  EXPECT_FALSE(session.confirmed());
  ASSERT_TRUE(session.received(ok(2, p2)));
  EXPECT_TRUE(session.confirmed());
  EXPECT_EQ(session.starts(), (channel_positions{{"a", std::string{p1}}, {"b\"", std::string{p2}}}));
}

TEST(listen_session, asks_for_the_filter_each_time) {
  listen_session session{{"table:public.o"}, "", {}, 1, {.where = "a = \"x\"", .columns = {"id", "a"}, .maybe = true}};
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(session.opened(),
              (std::vector<std::string>{
                  R"({"id":1,"op":"subscribe","channel":"table:public.o","where":"a = \"x\"","columns":["id","a"],"maybe":true})"}));
}

TEST(listen_session, names_its_consumer_until_a_position_is_known) {
  listen_session session{{"a"}, "", {}, 1, {}, "c\""};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(session.opened().front(), R"({"id":1,"op":"subscribe","channel":"a","consumer":"c\""})")
        << "where its confirmation said that it begins is no place after which it may go on: a new one's is before all that is kept";
    ASSERT_TRUE(session.received(ok(1, p1)));
    ASSERT_TRUE(session.ended(lost()));
  }
  session.opened();
  ASSERT_TRUE(session.received(ok(1, p1)));
  ASSERT_TRUE(session.received(message(1, p9)));
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_EQ(session.opened().front(), R"({"id":1,"op":"subscribe","channel":"a","after":")" + std::string{p9} + "\"}")
      << "what it was given and has not acknowledged is not given twice";
}

TEST(listen_session, tells_by_a_reset_that_an_interrupted_snapshot_begins_again) {
  const std::string row = R"({"sub":1,"id":null,"channel":"table:public.o","kind":"row","at":"t","payload":{}})",
                    begun = R"({"id":1,"ok":{}})";
  listen_session session{{"table:public.o"}, "", {}, 1, {.snapshot = true}};
  for (int i = 0; i < 2; ++i) {  // nothing was given yet: there is nothing to take back
    session.opened();
    EXPECT_FALSE(session.received(begun).value());
    ASSERT_TRUE(session.ended(lost()));
  }
  session.opened();
  EXPECT_FALSE(session.received(begun).value());
  ASSERT_TRUE(session.received(row));
  ASSERT_TRUE(session.ended(lost()));
  session.opened();
  const auto again = session.received(begun).value();
  ASSERT_TRUE(again);
  EXPECT_TRUE(session.confirmed());
  EXPECT_EQ(to_json(*again),
            R"({"id":null,"channel":"table:public.o","kind":"reset","at":"t","payload":{"position":null,"reason":"snapshot"}})");
  ASSERT_TRUE(session.received(row));
  ASSERT_TRUE(session.received(message(1, p9, "live")));
  ASSERT_TRUE(session.ended(lost()));
  session.opened();
  EXPECT_FALSE(session.received(ok(1, p9)).value()) << "complete: it resumes";
}

TEST(listen_session, comes_back_after_the_last_event_of_each_channel) {
  listen_session session{{"a", "b"}, "now", {}, 1};
  session.opened();
  ASSERT_TRUE(session.received(ok(1, p1)));
  ASSERT_TRUE(session.received(ok(2, p1)));
  const auto delivered = session.received(message(2, p9));
  EXPECT_EQ(delivered.value()->position, p9);
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_FALSE(session.confirmed());
  EXPECT_EQ(session.opened(), (std::vector<std::string>{R"({"id":1,"op":"subscribe","channel":"a","after":")" + std::string{p1} + "\"}",
                                                        R"({"id":2,"op":"subscribe","channel":"b","after":")" + std::string{p9} + "\"}"}));
}

TEST(listen_session, channels_that_begin_now_are_confirmed_before_the_others_are_asked_for) {
  const auto asks = [](int id, std::string_view channel, std::string_view after) {
    return R"({"id":)" + std::to_string(id) + R"(,"op":"subscribe","channel":")" + std::string{channel} + R"(","after":")" +
           std::string{after} + "\"}";
  };
  listen_session session{{"old", "new", "newer"}, "now", {{"old", std::string{p1}}}, 1};
  EXPECT_FALSE(session.whole());
  EXPECT_EQ(session.opened(), (std::vector{asks(2, "new", "now"), asks(3, "newer", "now")}));
  EXPECT_TRUE(session.due().empty());
  ASSERT_TRUE(session.received(ok(3, p2)));
  ASSERT_TRUE(session.received(message(3, p9)));
  EXPECT_TRUE(session.due().empty());
  EXPECT_FALSE(session.whole());
  ASSERT_TRUE(session.received(ok(2, p2)));
  EXPECT_TRUE(session.whole());
  EXPECT_FALSE(session.confirmed());
  EXPECT_EQ(session.due(), std::vector{asks(1, "old", p1)});
  EXPECT_TRUE(session.due().empty());
  EXPECT_EQ(session.starts(), (channel_positions{{"old", std::string{p1}}, {"new", std::string{p2}}, {"newer", std::string{p2}}}));
  ASSERT_TRUE(session.received(ok(1, p9)));
  EXPECT_TRUE(session.confirmed());
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_FALSE(session.whole());
  EXPECT_EQ(session.opened(), (std::vector{asks(1, "old", p1), asks(2, "new", p2), asks(3, "newer", p9)})) << "all are known";
  EXPECT_TRUE(session.whole());
}

TEST(listen_session, what_begins_at_the_beginning_with_rows_or_where_a_consumer_is_misses_nothing_before_it_is_confirmed) {
  listen_session oldest{{"a", "b"}, "beginning", {}, 1}, rows{{"table:public.a", "table:public.b"}, "", {}, 1, {.snapshot = true}},
      consumer{{"a", "b"}, "", {}, 1, {}, "c"};
  for (auto* const session : {&oldest, &rows, &consumer}) {
    EXPECT_EQ(session->opened().size(), 2u);
    EXPECT_TRUE(session->whole());
    EXPECT_FALSE(session->confirmed());
  }
}

TEST(listen_session, a_confirmation_does_not_skip_what_was_asked_for) {
  // Asked for everything after p1, confirmed at p9, and lost before the events between them came.
  listen_session session{{"a"}, std::string{p1}, {}, 1};
  session.opened();
  ASSERT_TRUE(session.received(ok(1, p9)));
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_NE(session.opened().front().find(p1), std::string::npos);
  // The same from the beginning, where no position is known at all.
  listen_session oldest{{"a"}, "beginning", {}, 1};
  oldest.opened();
  ASSERT_TRUE(oldest.received(ok(1, p9)));
  ASSERT_TRUE(oldest.ended(lost()));
  EXPECT_NE(oldest.opened().front().find("beginning"), std::string::npos);
}

TEST(listen_session, remembered_positions_win_over_after_channel_by_channel) {
  listen_session session{{"a", "b"}, "beginning", {{"b", std::string{p2}}, {"elsewhere", std::string{p9}}}, 1};
  const auto texts = session.opened();
  EXPECT_NE(texts[0].find("beginning"), std::string::npos);
  EXPECT_NE(texts[1].find(p2), std::string::npos);
}

TEST(listen_session, gap_and_reset_are_delivered_and_move_the_position) {
  listen_session session{{"a"}, "", {}, 1};
  session.opened();
  ASSERT_TRUE(session.received(ok(1, p1)));
  EXPECT_TRUE(session.received(message(1, p2, "gap")).value()->is_notice());
  EXPECT_EQ(session.received(message(1, p9, "reset")).value()->kind, event_kind::reset);
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_NE(session.opened().front().find(p9), std::string::npos);
}

TEST(listen_session, asks_where_its_consumer_is_when_positions_begin_anew) {
  listen_session session{{"a"}, "", {}, 1, {}, "c"};
  const auto as_consumer = session.opened();
  ASSERT_TRUE(session.received(ok(1, p1)));
  ASSERT_TRUE(session.received(message(1, p2)));
  EXPECT_FALSE(session.begins_anew());
  EXPECT_EQ(session.received(message(1, p9, "reset")).value()->kind, event_kind::reset);
  EXPECT_TRUE(session.begins_anew());
  ASSERT_TRUE(session.ended(lost()));
  EXPECT_EQ(session.opened(), as_consumer) << "what is kept stands before the reset's position";
  EXPECT_FALSE(session.begins_anew());
}

TEST(listen_session, comes_back_after_1001_4001_and_whatever_may_pass) {
  for (const auto& end : {lost(1001), lost(4001), lost(1013), lost(1006), lost(), lost(0, 503), lost(0, 429), lost(0, 408), lost(0, 502)}) {
    listen_session session{{"a"}, "", {}, 1};
    session.opened();
    EXPECT_TRUE(session.ended(end)) << end.close_code << " " << end.http_status;
  }
}

TEST(listen_session, ends_for_good_where_coming_back_is_of_no_use) {
  for (const auto& end : {lost(4400), lost(4401), lost(4403), lost(0, 401), lost(0, 403), lost(0, 404), lost(0, 400), lost(0, 301)}) {
    listen_session session{{"a"}, "", {}, 1};
    session.opened();
    EXPECT_FALSE(session.ended(end)) << end.close_code << " " << end.http_status;
  }
}

TEST(listen_session, a_refused_channel_ends_it_and_is_named) {
  listen_session session{{"a", "secret"}, "", {}, 1};
  session.opened();
  const auto refused = session.received(R"({"id":2,"error":{"status":403,"code":"forbidden","detail":"the token does not permit it"}})");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::forbidden);
  EXPECT_NE(refused.error().text.find("secret"), std::string::npos);
  EXPECT_FALSE(session.ended({.why = refused.error()}));
}

TEST(listen_session, a_refusal_that_may_pass_is_tried_again) {
  listen_session session{{"a"}, "", {}, 1};
  session.opened();
  const auto refused = session.received(R"({"id":1,"error":{"status":503,"code":"unavailable","detail":"later"}})");
  ASSERT_FALSE(refused);
  EXPECT_TRUE(session.ended({.why = refused.error()}));
}

TEST(listen_session, pauses_grow_to_ten_seconds_with_jitter_and_start_anew_once_confirmed) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    listen_session session{{"a"}, "", {}, seed};
    milliseconds expected = listen_session::first_pause;
    for (int i = 0; i < 20; ++i) {
      const auto pause = session.ended(lost()).value();
      EXPECT_GE(pause, expected / 2) << "seed " << seed;
      EXPECT_LE(pause, expected) << "seed " << seed;
      expected = std::min(expected * 2, milliseconds{listen_session::longest_pause});
    }
    session.opened();
    ASSERT_TRUE(session.received(ok(1, p1)));
    EXPECT_LE(session.ended(lost()).value(), listen_session::first_pause);
  }
}

TEST(listen_session, frames_about_subscriptions_never_made_are_a_breach) {
  for (const auto& frame : {ok(0, p1), ok(2, p1), ok(-1, p1), message(0, p1), message(9, p1)}) {
    listen_session session{{"a"}, "", {}, 1};
    session.opened();
    EXPECT_EQ(session.received(frame).error().code, errc::protocol) << frame;
  }
}

}  // namespace
}  // namespace postbus::remote
