// Requests whose body is long in coming.
#include <gtest/gtest.h>
#include <poll.h>

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

}  // namespace
}  // namespace postbus::test
