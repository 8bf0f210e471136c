// Requests and messages that are long in coming or in being written down.
#include <gtest/gtest.h>
#include <poll.h>

#include "base/websocket_frame.hpp"
#include "support/memory_gateway.hpp"

namespace postbus::test {
namespace {

using namespace std::chrono_literals;

bool has_answer(raw_client& c, std::chrono::milliseconds within) {
  pollfd p{c.fd(), POLLIN, 0};
  return ::poll(&p, 1, static_cast<int>(within.count())) == 1;
}

TEST(gateway_body, a_body_that_drips_does_not_move_its_deadline) {
  gateway::gateway_options o;
  o.limits.body_deadline = 300ms;
  memory_gateway g{o};
  raw_client c{g.port()};
  c.send("POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 250\r\n\r\n");
  int sent = 0;
  for (; sent < 250 && !has_answer(c, 20ms); ++sent) c.send("x");
  EXPECT_TRUE(c.read_until("\r\n\r\n").starts_with("HTTP/1.1 408 ")) << "after " << sent << " bytes";
}

TEST(gateway_body, without_a_token_the_answer_comes_before_the_body) {
  gateway::gateway_options o;
  o.tokens =
      gateway::token_set::parse("[[token]]\nname=\"a\"\nsha256=\"" + gateway::token_sha256_hex("secret") + "\"\npost=[\"a\"]\n").value();
  o.origins.tokens = true;
  memory_gateway g{o};
  const std::string head = "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
  raw_client stranger{g.port()};
  stranger.send(head + "\r\n");
  const auto answer = stranger.read_all();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 401 ")) << answer;
  EXPECT_TRUE(answer.contains("Connection: close"));
  raw_client wrong{g.port()};
  wrong.send(head + "Authorization: Bearer wrong\r\n\r\n");
  EXPECT_TRUE(wrong.read_until("\r\n").starts_with("HTTP/1.1 401 "));

  raw_client known{g.port()};
  for (int request = 0; request < 2; ++request) {
    known.send(head + "Authorization: Bearer secret\r\n\r\n");
    EXPECT_EQ(known.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    known.send("hello");
    EXPECT_TRUE(known.read_until("at_least\":\"").starts_with("HTTP/1.1 202 "));
    known.read_until("\n");
  }
}

/** A fragment of a text message, the first, or one that continues or ends it. */
std::string fragment(std::string_view text, char kind) {
  std::string frame;
  websocket::append_masked_frame(frame, websocket::opcode::text, text, 0x12345678);
  frame[0] = kind;
  return frame;
}
std::string fragment(std::size_t bytes, bool first) { return fragment(std::string(bytes, 'x'), first ? '\x01' : '\x00'); }

TEST(gateway_body, messages_in_the_making_are_bounded_over_all_connections) {
  gateway::gateway_options o;
  o.limits.max_message = 1u << 20;
  o.limits.max_bodies = 4u << 20;
  memory_gateway g{o};
  std::vector<raw_client> many;
  for (const auto* const path : {"/v1/channels/a", "/v1/ws"}) {
    auto& small = many.emplace_back(g.port());  // what is small is counted as well, and has room
    small.upgrade(path);
    small.send(fragment(1000, true));
  }
  int refused = 0;
  for (int i = 0; i < 6; ++i) {
    auto& c = many.emplace_back(g.port());
    c.upgrade("/v1/ws");
    c.send(fragment(1u << 20, true));
    // Pings may stand within a message; the second one is looked at when all of the fragment has been.
    raw_client::frame answer;
    for (int pings = 0; pings < 2 && answer.opcode != 8; ++pings) {
      c.send("\x89\x80\x12\x34\x56\x78");
      answer = c.read_frame();
    }
    if (answer.opcode != 8) continue;
    EXPECT_EQ(answer.close_code(), 1013);
    ++refused;
  }
  EXPECT_GE(refused, 2);
  EXPECT_LT(refused, 6);
  many.clear();
  const auto whole = fragment(1u << 20, true) + fragment(10, false) + std::string{"\x80\x80\x12\x34\x56\x78", 6};
  for (int taken = 0, tried = 0; taken < 20; ++tried) {  // what they held is given back: by those that go, and by each whole message
    ASSERT_LT(tried, 1000);
    raw_client c{g.port()};
    c.upgrade("/v1/ws");
    c.send(whole);
    taken += c.read_frame().close_code() == 4400;  // it is no JSON
  }
}

TEST(gateway_body, a_message_that_drips_is_not_waited_for) {
  gateway::gateway_options o;
  o.limits.body_deadline = 300ms;
  o.limits.ping_every = 100ms;
  memory_gateway g{o};
  for (const auto* const path : {"/v1/ws", "/v1/channels/a"}) {
    raw_client c{g.port()};
    c.upgrade(path);
    c.send(fragment(1, true));
    raw_client::frame f;
    int sent = 0;
    for (; sent < 250 && f.opcode != 8; ++sent) {
      c.send(fragment(1, false));
      if (has_answer(c, 20ms)) f = c.read_frame();
    }
    EXPECT_EQ(f.close_code(), 1013) << path << " after " << sent << " bytes";
  }
}

TEST(gateway_body, what_has_arrived_whole_is_not_waited_for) {
  gateway::gateway_options o;
  o.limits.body_deadline = 1s;
  o.limits.ping_every = 400ms;
  memory_gateway g{o};
  for (const std::string path : {"/v1/ws", "/v1/channels/a"}) {
    raw_client c{g.port()};
    c.upgrade(path);
    const auto next = [&] {  // but pings, which are answered
      for (;;) {
        auto f = c.read_frame();
        if (f.opcode != 9) return f;
        c.send("\x8a\x80\x12\x34\x56\x78");
      }
    };
    const auto in_two = [&](std::string_view one, std::string_view other) {
      c.send(one);
      has_answer(c, 20ms);
      c.send(other);
      return next();
    };
    if (path == "/v1/ws") {
      const auto f = in_two(fragment(R"({"id":1,"op":)", '\x01'), fragment(R"("unsubscribe","sub":7})", '\x80'));
      EXPECT_TRUE(f.payload.starts_with(R"({"id":1,)")) << f.payload;
    } else {
      EXPECT_EQ(in_two("\x89\x80\x12", "\x34\x56\x78").opcode, 10);
    }
    for (int pings = 0; pings < 5; ++pings) {  // twice as long as one may take
      ASSERT_EQ(c.read_frame().opcode, 9) << path;
      c.send("\x8a\x80\x12\x34\x56\x78");
    }
  }
}

TEST(gateway_body, what_waits_for_the_database_is_bounded_over_all_connections) {
  gateway::gateway_options o;
  o.limits.max_bodies = 100'000;
  memory_gateway g{o};
  g.behind.stuck = true;
  std::array<raw_client, 2> clients{raw_client{g.port()}, raw_client{g.port()}};
  for (auto& c : clients) c.upgrade("/v1/ws");
  std::array<int, 2> taken{};
  const auto post = R"({"id":1,"op":"post","channel":"a","payload":")" + std::string(10'000, 'x') + "\"}";
  for (int i = 0; i < 20; ++i) {
    auto& c = clients[static_cast<std::size_t>(i % 2)];
    c.send_text(post);
    c.send("\x89\x80\x12\x34\x56\x78");  // a ping: its answer says that the post has been looked at
    if (const auto answer = c.read_frame(); answer.opcode == 1) {
      EXPECT_TRUE(answer.payload.contains("urn:postbus:error:unavailable")) << answer.payload;
      EXPECT_EQ(c.read_frame().opcode, 10);
    } else {
      ASSERT_EQ(answer.opcode, 10);
      ++taken[static_cast<std::size_t>(i % 2)];
    }
  }
  EXPECT_EQ(taken[0] + taken[1], 10);
  g.behind.stuck = false;
  for (std::size_t i = 0; i < 2; ++i) {
    for (; taken[i] > 0; --taken[i]) EXPECT_TRUE(clients[i].read_frame().payload.starts_with(R"({"id":1,"ok")"));
  }
  clients[0].send_text(post);
  EXPECT_TRUE(clients[0].read_frame().payload.starts_with(R"({"id":1,"ok")")) << "what was written down takes nothing any more";
}

TEST(gateway_body, who_acknowledges_without_waiting_is_read_as_the_database_answers) {
  memory_gateway g;
  g.behind.stuck = true;
  raw_client c{g.port()};
  c.upgrade("/v1/ws");
  constexpr int count = 20'000;
  std::thread asking{[&] {
    for (int i = 0; i < count; ++i)
      c.send_text(R"({"id":1,"op":"ack","channel":"a","consumer":"c","position":"5f3a9c01-0000000000000001-00000000"})");
  }};
  while (g.behind.waiting.load() < 256) std::this_thread::yield();
  raw_client other{g.port()};
  for (int i = 0; i < 50; ++i) {
    other.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
    other.read_until("ok\n");
  }
  EXPECT_LT(g.behind.waiting.load(), 2000) << "a buffer full beyond the bound";
  g.behind.stuck = false;
  for (int i = 0; i < count; ++i) ASSERT_EQ(c.read_frame().payload, R"({"id":1,"ok":{}})");
  asking.join();
}

/** There is a message in memory, and what a stream's tables keep is not told. */
void remember_and_be_stuck(memory_gateway& g) {
  auto one = std::make_shared<bus::batch>();
  one->add("a", bus::kind::message, bus::payload_form::text, "kept in memory", {0x5f3a9c01, 2000, 0}, 0);
  g.hub.publish(one);
  g.behind.stuck = true;
}

TEST(gateway_body, a_long_poll_has_its_deadline_while_a_streams_tables_are_read) {
  gateway::gateway_options o;
  o.limits.tables_deadline = 300ms;
  memory_gateway g{o};
  remember_and_be_stuck(g);
  raw_client poll{g.port()};
  poll.send("GET /v1/channels/a?after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(poll.read_until("\r\n\r\n").starts_with("HTTP/1.1 503 ")) << "where it goes on is not known";
  EXPECT_EQ(g.behind.waiting.load(), 1) << "and nothing has come from the tables";
  g.behind.stuck = false;
  raw_client again{g.port()};
  again.send("GET /v1/channels/a?after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(again.read_until("}\n").contains("kept in memory"));
}

TEST(gateway_body, a_long_poll_waits_for_a_streams_tables_though_it_asks_for_no_waiting) {
  memory_gateway g;
  remember_and_be_stuck(g);
  raw_client poll{g.port()};
  poll.send("GET /v1/channels/a?after=beginning HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_FALSE(has_answer(poll, 100ms));
  g.behind.stuck = false;
  EXPECT_TRUE(poll.read_until("}\n").contains("kept in memory"));
}

}  // namespace
}  // namespace postbus::test
