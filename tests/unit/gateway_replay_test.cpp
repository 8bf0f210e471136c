// Listeners that come back to a long history: it is given as their sockets take it, and what is live joins it.
#include <gtest/gtest.h>

#include <functional>

#include "base/metrics.hpp"
#include "support/memory_gateway.hpp"

namespace postbus::test {
namespace {

constexpr std::size_t payload_bytes = 1000;
/** More than any socket's buffers hold. */
constexpr std::size_t long_history = 24'000;

struct gateway_replay : testing::Test {
  /** Message n of a channel says so. */
  void post(std::string_view channel, std::size_t count) {
    auto& next = posted[channel == "a" ? 0 : 1];
    while (count > 0) {
      auto some = std::make_shared<bus::batch>();
      for (auto n = std::min<std::size_t>(count, 100); n > 0; --n, --count) {
        auto text = std::to_string(next++) + ' ';
        text.resize(payload_bytes, '.');
        some->add(channel, bus::kind::message, bus::payload_form::text, text, {0x5f3a9c01, ++lsn, 0}, 0);
      }
      g.hub.publish(some);
    }
  }
  /** A client whose socket takes little. */
  raw_client slow() {
    raw_client c{g.port()};
    const int tiny = 64 * 1024;
    ::setsockopt(c.fd(), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
    return c;
  }
  /** Every request that came before has been acted on. */
  void settle() {
    raw_client c{g.port()};
    c.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
    c.read_until("ok\n");
  }
  static std::uint64_t given() { return metrics::value(metrics::counter::events_out); }
  static std::size_t number(std::string_view event) {
    const auto text = event.find(R"("payload":")");
    return text == std::string_view::npos ? SIZE_MAX : static_cast<std::size_t>(std::stoull(std::string{event.substr(text + 11, 12)}));
  }
  /** Reads message after message of one channel; the first that is missing, or `end`. */
  static std::size_t read_whole(std::size_t end, const std::function<std::string()>& read) {
    for (std::size_t n = 0; n < end; ++n)
      if (const auto e = read(); number(e) != n) {
        ADD_FAILURE() << "instead of " << n << ": " << e.substr(0, 200);
        return n;
      }
    return end;
  }
  static std::string sse_event(raw_client& c) {
    for (;;)
      if (auto block = c.read_until("\n\n"); block.contains("data: ")) return block;
  }

  memory_gateway g{{}, {.history_bytes = 40u << 20}};
  std::array<std::size_t, 2> posted{};
  std::uint64_t lsn = 2000;
};

TEST_F(gateway_replay, a_long_history_is_given_as_the_socket_takes_it_and_joins_what_is_live) {
  post("a", long_history);
  const auto before = given();
  auto ws = slow(), sse = slow(), many = slow(), multi = slow();
  ws.upgrade("/v1/channels/a?after=beginning");
  sse.send("GET /v1/channels/a?after=beginning&format=event HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
  many.send("GET /v1/events?channel=a&channel=b&after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n");
  multi.upgrade("/v1/ws");
  multi.send_text(R"({"id":1,"op":"subscribe","channel":"a","after":"beginning"})");
  multi.read_frame();
  settle();
  EXPECT_LT(given() - before, 4 * long_history / 2) << "no connection holds what its socket has not taken";
  post("a", 2000);
  const auto end = posted[0];
  EXPECT_EQ(read_whole(end, [&] { return ws.read_frame().payload; }), end);
  EXPECT_EQ(read_whole(end, [&] { return sse_event(sse); }), end);
  EXPECT_EQ(read_whole(end, [&] { return sse_event(many); }), end);
  EXPECT_EQ(read_whole(end, [&] { return multi.read_frame().payload; }), end);
  post("a", 1);
  for (const auto& last : {ws.read_frame().payload, sse_event(sse), sse_event(many), multi.read_frame().payload})
    EXPECT_EQ(number(last), end);
}

TEST_F(gateway_replay, whom_history_overtakes_meanwhile_is_told_of_a_gap_and_goes_on) {
  post("a", long_history);
  auto ws = slow(), sse = slow(), many = slow(), multi = slow();
  ws.upgrade("/v1/channels/a?after=beginning");
  sse.send("GET /v1/channels/a?after=beginning&format=event HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
  many.send("GET /v1/events?channel=a&channel=b&after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n");
  multi.upgrade("/v1/ws");
  multi.send_text(R"({"id":1,"op":"subscribe","channel":"a","after":"beginning"})");
  multi.read_frame();
  settle();
  post("a", 2 * long_history);
  const auto end = posted[0];
  const auto read = [&](const std::function<std::string()>& next_event) {
    std::size_t gaps = 0;
    bool told = false;
    for (std::size_t next = 0; next < end;) {
      const auto e = next_event();
      if (e.contains(R"("kind":"gap")")) {
        EXPECT_TRUE(e.contains("history")) << e;
        ++gaps;
        told = true;
        continue;
      }
      const auto n = number(e);
      if (n != next && !(told && n > next && n < end)) return ADD_FAILURE() << "instead of " << next << ": " << e.substr(0, 200);
      next = n + 1;
      told = false;
    }
    EXPECT_GE(gaps, 1u);
  };
  read([&] { return ws.read_frame().payload; });
  read([&] { return sse_event(sse); });
  read([&] { return sse_event(many); });
  read([&] { return multi.read_frame().payload; });
}

TEST_F(gateway_replay, what_is_live_on_one_connection_does_not_wait_for_another_channels_history) {
  post("a", long_history);
  auto ws = slow();
  ws.upgrade("/v1/ws");
  ws.send_text(R"({"id":1,"op":"subscribe","channel":"b"})");
  ws.read_frame();
  ws.send_text(R"({"id":2,"op":"subscribe","channel":"a","after":"beginning"})");
  ws.read_frame();
  settle();
  post("b", 1);
  std::size_t from_a = 0;
  for (;; ++from_a) {
    const auto e = ws.read_frame().payload;
    if (e.contains(R"("channel":"b")")) break;
    ASSERT_EQ(number(e), from_a);
  }
  EXPECT_LT(from_a, long_history / 2);
  while (from_a < long_history) ASSERT_EQ(number(ws.read_frame().payload), from_a++);
}

TEST_F(gateway_replay, an_unsubscribed_channel_ends_in_the_middle_of_its_history) {
  post("a", long_history);
  auto ws = slow();
  ws.upgrade("/v1/ws");
  ws.send_text(R"({"id":1,"op":"subscribe","channel":"a","after":"beginning"})");
  ws.read_frame();
  ws.send_text(R"({"id":2,"op":"unsubscribe","sub":1})");
  for (std::size_t n = 0;; ++n) {
    const auto e = ws.read_frame().payload;
    if (e == R"({"id":2,"ok":{}})") break;
    ASSERT_EQ(number(e), n);
  }
  ws.send_text(R"({"id":1,"op":"subscribe","channel":"b"})");
  EXPECT_TRUE(ws.read_frame().payload.starts_with(R"({"id":1,"ok")"));
  post("b", 1);
  EXPECT_TRUE(ws.read_frame().payload.contains(R"("channel":"b")"));
}

TEST_F(gateway_replay, who_breaks_off_before_the_first_event_misses_nothing_of_tables_nor_of_a_long_history) {
  const auto told_first = [&](std::string_view target, bool by_ws) {
    auto c = slow();
    if (by_ws) {
      c.upgrade("/v1/ws");
      c.send_text(R"({"id":1,"op":"subscribe","channel":"a","after":"beginning"})");
      return c.read_frame().payload.substr(26, bus::position::text_size);
    }
    c.send("GET " + std::string{target} + "after=beginning HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    const auto head = c.read_until("\r\n\r\n"), first = c.read_until("\n\n");
    const auto told = first.substr(4, bus::position::text_size);
    EXPECT_TRUE(head.contains("Postbus-Position: " + told)) << head << first;
    return told;
  };
  const auto expect = [&](auto fits) {
    for (const auto& told :
         {told_first("/v1/channels/a?", false), told_first("/v1/events?channel=a&channel=b&", false), told_first("", true)})
      EXPECT_TRUE(fits(told)) << told;
  };
  post("a", long_history);
  expect([](const std::string& told) { return told < "5f3a9c01-00000000000007d1-00000000"; });
  auto kept = std::make_shared<bus::batch>();
  kept->add("a", bus::kind::message, bus::payload_form::text, "kept", {0x5f3a9c01, 1500, 0}, 0);
  g.behind.kept = [=, upto = bus::position{0x5f3a9c01, lsn, 0}](const bus::start&) { return streams::page{kept, upto, true}; };
  expect([](const std::string& told) { return told == "5f3a9c01-0000000000000000-00000000"; });
}

TEST_F(gateway_replay, a_long_poll_ends_with_what_history_gives_behind_the_tables) {
  post("a", 1);
  const bus::position before{0x5f3a9c01, lsn - 1, bus::position::end_of_commit};
  g.behind.kept = [=](const bus::start&) { return streams::page{std::make_shared<bus::batch>(), before, true}; };
  raw_client c{g.port()};
  c.send("GET /v1/channels/a?after=beginning&wait=5s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(number(c.read_all()), 0u);
}

TEST_F(gateway_replay, a_long_poll_answers_with_a_piece_of_history_and_where_it_goes_on) {
  post("a", 5000);
  std::string after = "beginning";
  std::size_t next = 0;
  while (next < 5000) {
    raw_client c{g.port()};
    c.send("GET /v1/channels/a?after=" + after + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    const auto answer = c.read_all();
    ASSERT_LT(answer.size(), 2u << 20);
    const auto was = next;
    for (std::size_t at = 0; (at = answer.find(R"("payload":")", at)) != std::string::npos; ++at)
      ASSERT_EQ(number(answer.substr(at, 30)), next++);
    ASSERT_GT(next, was);
    after = answer.substr(answer.find(R"("next":")") + 8, bus::position::text_size);
  }
}

}  // namespace
}  // namespace postbus::test
