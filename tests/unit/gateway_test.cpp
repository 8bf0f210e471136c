// The gateway over real sockets, with a hub and no database behind it.
#include <gtest/gtest.h>

#include "base/metrics.hpp"
#include "support/memory_gateway.hpp"

namespace postbus::test {
namespace {

struct gateway_fixture : testing::Test {
  void post(std::string_view channel, std::string_view payload) {
    auto one = std::make_shared<bus::batch>();
    one->add(channel, bus::kind::message, bus::payload_form::text, payload, {0x5f3a9c01, ++lsn, 0}, 0);
    g.hub.publish(one);
  }
  std::string get(std::string_view target, std::string_view headers = {}) {
    raw_client c{g.port()};
    c.send("GET " + std::string{target} + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + std::string{headers} + "\r\n");
    return c.read_all();
  }
  memory_gateway g;
  std::uint64_t lsn = 2000;
};

TEST_F(gateway_fixture, health_page_and_unknown_addresses) {
  EXPECT_TRUE(get("/health/live").starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_TRUE(get("/").find("text/html") != std::string::npos);
  EXPECT_TRUE(get("/nothing").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(get("/metrics").find("postbus_sockets") != std::string::npos);
  EXPECT_TRUE(get("/v1/status").find(R"("head":"5f3a9c01-)") != std::string::npos);
}

TEST_F(gateway_fixture, a_websocket_gets_events_of_its_channel_as_frames) {
  raw_client ws{g.port()};
  EXPECT_TRUE(ws.upgrade("/v1/channels/a").starts_with("HTTP/1.1 101 "));
  raw_client plain{g.port()};
  plain.upgrade("/v1/channels/a?format=payload");
  post("a", "one \"quoted\"");
  post("b", "not mine");
  post("a", "two");
  EXPECT_EQ(
      ws.read_frame().payload,
      R"({"id":"5f3a9c01-00000000000007d1-00000000","channel":"a","kind":"message","at":"1970-01-01T00:00:00.000000Z","payload":"one \"quoted\""})");
  EXPECT_TRUE(ws.read_frame().payload.ends_with(R"("payload":"two"})"));
  EXPECT_EQ(plain.read_frame().payload, "one \"quoted\"");
  EXPECT_EQ(plain.read_frame().payload, "two");
}

TEST_F(gateway_fixture, an_event_stream_starts_with_its_position_and_resumes) {
  raw_client sse{g.port()};
  sse.send("GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
  sse.read_until("\r\n\r\n");
  EXPECT_EQ(sse.read_until("\n\n"), "id: 5f3a9c01-00000000000003e8-00000000\n\n");
  post("a", "two\nlines");
  EXPECT_EQ(sse.read_until("\n\n"), "id: 5f3a9c01-00000000000007d1-00000000\ndata: two\ndata: lines\n\n");
  post("a", "next");
  raw_client again{g.port()};
  again.send(
      "GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: "
      "5f3a9c01-00000000000007d1-00000000\r\n\r\n");
  again.read_until("\r\n\r\n");
  again.read_until("\n\n");
  EXPECT_EQ(again.read_until("\n\n"), "id: 5f3a9c01-00000000000007d2-00000000\ndata: next\n\n");
}

/** The position a listener is told first, and the events it is given when it breaks off there and comes back with it. */
TEST_F(gateway_fixture, whoever_breaks_off_before_the_first_event_resumes_after_what_is_told_first) {
  for (const auto* const text : {"n1", "n2", "n3"}) post("a", text);  // 7d1 to 7d3
  post("b", "m1");
  const std::string n1 = "5f3a9c01-00000000000007d1-00000000", head = "5f3a9c01-00000000000007d4-00000000";
  const std::string unknown = "5f3a9c01-0000000000000001-00000000", other = "ffffffff-0000000000000001-00000000";
  const std::string only = "[\"n2\",\"n3\"]", all = "[\"n1\",\"n2\",\"n3\"]";

  const auto sse = [&](std::string_view target, std::string_view after) {
    raw_client c{g.port()};
    c.send("GET " + std::string{target} + (target.find('?') == std::string_view::npos ? "?" : "&") + "after=" + std::string{after} +
           " HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    const auto answer = c.read_until("\r\n\r\n");
    const auto first = c.read_until("\n\n");
    const auto told = first.substr(4, bus::position::text_size);
    EXPECT_TRUE(answer.find("Postbus-Position: " + told) != std::string::npos) << answer << first;
    return told;
  };
  const auto ws = [&](std::string_view after) {
    raw_client c{g.port()};
    c.upgrade("/v1/ws", "Sec-WebSocket-Protocol: postbus.v1\r\n");
    c.send_text(R"({"id":1,"op":"subscribe","channel":"a","after":")" + std::string{after} + "\"}");
    const auto ok = c.read_frame().payload;
    EXPECT_TRUE(ok.starts_with(R"({"id":1,"ok":{"position":")")) << ok;
    return ok.substr(26, bus::position::text_size);
  };
  const auto resumed = [&](std::string_view from) {
    const auto answer = get("/v1/channels/a?after=" + std::string{from});
    std::string payloads = "[", kinds;
    for (std::size_t at = 0; (at = answer.find(R"("kind":")", at)) != std::string::npos; ++at) {
      if (!answer.substr(at + 8).starts_with("message")) {
        kinds += answer.substr(at + 8, answer.find('"', at + 8) - at - 8) + ' ';
        continue;
      }
      const auto text = answer.find(R"("payload":)", at) + 10;
      payloads += (payloads.size() > 1 ? "," : "") + answer.substr(text, answer.find('}', text) - text);
    }
    return kinds + payloads + ']';
  };

  for (const auto& told : {sse("/v1/channels/a", n1), sse("/v1/events?channel=a&channel=b", n1), ws(n1)}) EXPECT_EQ(resumed(told), only);
  for (const auto& told : {sse("/v1/channels/a", "beginning"), sse("/v1/events?channel=a&channel=b", "beginning"), ws("beginning")})
    EXPECT_EQ(resumed(told), all) << "and no gap before it";
  for (const auto& told : {sse("/v1/channels/a", unknown), sse("/v1/events?channel=a&channel=b", unknown), ws(unknown)})
    EXPECT_EQ(resumed(told), "reset " + all);
  for (const auto& told : {sse("/v1/channels/a", other), sse("/v1/events?channel=a&channel=b", other), ws(other)})
    EXPECT_EQ(resumed(told), "reset []");
  for (const auto& told : {sse("/v1/channels/a", head), sse("/v1/events?channel=a&channel=b", head), ws(head), ws("now")})
    EXPECT_EQ(told, head) << "nothing is still to come";
  EXPECT_EQ(sse("/v1/channels/quiet", n1), head) << "no event of this channel is between";
}

TEST_F(gateway_fixture, of_two_channels_that_are_told_of_a_gap_neither_is_missed_where_the_stream_breaks_between) {
  raw_client c{g.port()};
  c.send("GET /v1/events?channel=a&channel=b HTTP/1.1\r\nHost: localhost\r\n\r\n");
  c.read_until("\r\n\r\n");
  const auto opening = c.read_until("\n\n");
  g.hub.announce_gap({0x5f3a9c01, 1000, 0}, {0x5f3a9c01, 1010, 0}, "reconnect");
  const auto first = c.read_until("\n\n"), second = c.read_until("\n\n");
  EXPECT_TRUE(first.starts_with(opening.substr(0, opening.size() - 1) + "event: gap\n")) << first;
  EXPECT_TRUE(second.starts_with("id: 5f3a9c01-00000000000003f2-00000000\nevent: gap\n")) << second;
}

TEST_F(gateway_fixture, a_long_poll_answers_from_history_waits_or_comes_back_empty) {
  post("a", "old");
  EXPECT_TRUE(get("/v1/channels/a?after=beginning").find(R"("payload":"old"}],"next":"5f3a9c01-00000000000007d1-00000000"})") !=
              std::string::npos);
  EXPECT_TRUE(get("/v1/channels/a?wait=100ms").find(R"({"events":[],"next":"5f3a9c01-)") != std::string::npos);
  raw_client poll{g.port()};
  poll.send("GET /v1/channels/a?wait=30s&after=5f3a9c01-00000000000007d1-00000000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
  while (g.behind.listened.load() == 0) std::this_thread::yield();
  post("a", "new");
  EXPECT_TRUE(poll.read_until("}\n").find(R"("payload":"new")") != std::string::npos);
}

TEST_F(gateway_fixture, posting_and_waiting_the_classic_way) {
  raw_client wait{g.port()};
  wait.send("GET /wait?channel=foo HTTP/1.1\r\nHost: localhost\r\n\r\n");
  while (g.behind.listened.load() == 0) std::this_thread::yield();
  EXPECT_TRUE(get("/post?channel=foo&payload=bar%20baz").starts_with("HTTP/1.1 200 OK\r\n"));
  wait.read_until("\r\n\r\n");
  EXPECT_EQ(wait.read_bytes(7), "bar baz");
  EXPECT_TRUE(get("/wait?channel=foo&timeout=100ms").starts_with("HTTP/1.1 204 "));
  EXPECT_TRUE(get("/post?payload=x").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(get("/post?channel=table:x&payload=x").starts_with("HTTP/1.1 400 "));
}

TEST_F(gateway_fixture, one_websocket_with_many_subscriptions) {
  raw_client ws{g.port()};
  EXPECT_TRUE(ws.upgrade("/v1/ws", "Sec-WebSocket-Protocol: postbus.v1\r\n").find("Sec-WebSocket-Protocol: postbus.v1") !=
              std::string::npos);
  ws.send_text(R"({"id":1,"op":"subscribe","channel":"a"})");
  EXPECT_TRUE(ws.read_frame().payload.starts_with(R"({"id":1,"ok":{"position":")"));
  ws.send_text(R"({"id":2,"op":"subscribe","channel":"b"})");
  EXPECT_TRUE(ws.read_frame().payload.starts_with(R"({"id":2,"ok":{"position":")"));
  ws.send_text(R"({"id":3,"op":"post","channel":"b","payload":{"x":1}})");
  bool replied = false, delivered = false;
  for (int i = 0; i < 2; ++i) {
    const auto f = ws.read_frame().payload;
    replied = replied || f.starts_with(R"({"id":3,"ok":{"position":")");
    delivered = delivered || (f.starts_with(R"({"sub":2,"id":")") && f.ends_with(R"("payload":{"x":1}})"));
  }
  EXPECT_TRUE(replied && delivered);
  ws.send_text(R"({"id":4,"op":"unsubscribe","sub":2})");
  EXPECT_EQ(ws.read_frame().payload, R"({"id":4,"ok":{}})");
  ws.send_text(R"({"id":1,"op":"subscribe","channel":"c"})");
  EXPECT_TRUE(ws.read_frame().payload.find("conflict") != std::string::npos);
  ws.send_text("not json");
  EXPECT_EQ(ws.read_frame().close_code(), 4400);
}

TEST_F(gateway_fixture, a_position_that_lies_ahead_is_waited_for) {
  raw_client poll{g.port()};
  poll.send("GET /v1/channels/a?wait=30s&after=5f3a9c01-00000000000007d2-00000000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
  post("a", "one");    // 7d1: before the position
  post("a", "two");    // 7d2: at it
  post("a", "three");  // 7d3
  const auto answer = poll.read_until("}\n");
  EXPECT_TRUE(answer.find(R"("payload":"three")") != std::string::npos);
  EXPECT_TRUE(answer.find(R"("payload":"two")") == std::string::npos);
}

TEST_F(gateway_fixture, parameters_that_ask_for_nothing_sensible_are_refused) {
  for (const auto* const where : {"", "%20", "%20%20%20"}) {
    const auto answer = get("/v1/tables/orders?where=" + std::string{where});
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 ") && answer.find("`where` is empty") != std::string::npos) << answer;
  }
  EXPECT_TRUE(get("/v1/channels/a?format=foo").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(get("/v1/channels/a/ack?consumer=c").starts_with("HTTP/1.1 405 "));
}

TEST_F(gateway_fixture, a_channel_that_is_no_feeds_is_refused_with_the_name_that_is) {
  const std::string_view elsewhere = "the table's is table:public.orders", watch = "postbus watch nowhere";
  raw_client ws{g.port()};
  ws.upgrade("/v1/ws");
  const auto subscribed = [&](std::string_view channel, std::string_view more) {
    ws.send_text(R"({"id":1,"op":"subscribe","channel":")" + std::string{channel} + '"' + std::string{more} + '}');
    return ws.read_frame().payload;
  };
  for (const auto* const door : {"/v1/channels/", "/v1/events?channel=", "/wait?timeout=10ms&channel="})
    for (const auto& [table, hint] : {std::pair{"table:orders", elsewhere}, {"table:nowhere", watch}}) {
      const auto answer = get(std::string{door} + table);
      EXPECT_TRUE(answer.starts_with("HTTP/1.1 404 ") && answer.find(R"("code":"not_watched")") != std::string::npos) << door << answer;
      EXPECT_TRUE(answer.find(hint) != std::string::npos) << answer;
    }
  for (const auto& [table, hint] : {std::pair{"table:orders", elsewhere}, {"table:nowhere", watch}})
    for (const auto* const how : {"", R"(,"after":"beginning")", R"(,"after":"5f3a9c01-00000000000003e8-00000000")", R"(,"where":"id = 1")",
                                  R"(,"snapshot":true)"}) {
      const auto answer = subscribed(table, how);
      EXPECT_TRUE(answer.starts_with(R"({"id":1,"error":{"type":"urn:postbus:error:not_watched")")) << how << answer;
      EXPECT_TRUE(answer.find(hint) != std::string::npos) << how << answer;
    }
  EXPECT_TRUE(get("/v1/channels/table:public.orders?wait=10ms").starts_with("HTTP/1.1 200 "));
  // Who resumes is given what came while the table was watched.
  post("table:public.gone", "kept");
  EXPECT_TRUE(get("/v1/channels/table:public.gone?after=beginning").starts_with("HTTP/1.1 404 "));
  EXPECT_TRUE(get("/v1/channels/table:public.gone?after=5f3a9c01-00000000000003e8-00000000").find(R"("payload":"kept")") !=
              std::string::npos);
  EXPECT_TRUE(subscribed("table:public.gone", R"(,"after":"5f3a9c01-00000000000003e8-00000000")").starts_with(R"({"id":1,"ok":)"));
}

TEST(gateway_feeds, whom_a_feed_is_closed_to_cannot_tell_whether_there_is_one) {
  const auto grant = [](std::string_view name, std::string_view listen) {
    return "[[token]]\nname=\"" + std::string{name} + "\"\nsha256=\"" + gateway::token_sha256_hex(name) + "\"\nlisten=[" +
           std::string{listen} + "]\n";
  };
  gateway::gateway_options o;
  o.tokens = gateway::token_set::parse(grant("bare", R"("table:*")") + grant("none", R"("other")") + grant("all", R"("table:**")")).value();
  o.origins.tokens = true;
  memory_gateway g{o};
  const auto get = [&](std::string_view target, std::string_view token) {
    raw_client c{g.port()};
    c.send("GET " + std::string{target} + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer " +
           std::string{token} + "\r\n\r\n");
    const auto answer = c.read_all();
    return answer.substr(answer.find("\r\n\r\n") + 4);
  };
  // What is asked for, the answer without the table's own name in it: the same for a table that is watched and for one that is not.
  const auto told = [&](std::string_view door, std::string table, std::string_view token) {
    auto answer = get(std::string{door} + table, token);
    for (std::size_t at; (at = answer.find(table)) != std::string::npos;) answer.replace(at, table.size(), "*");
    return answer;
  };
  for (const auto* const door : {"/v1/tables/", "/v1/channels/table:"})
    for (const auto* const token : {"bare", "none"})
      for (const std::string schema : {"", "public."})
        EXPECT_EQ(told(door, schema + "orders", token), told(door, schema + "nowhere", token));
  EXPECT_NE(get("/v1/channels/table:orders", "bare").find("not_watched"), std::string::npos) << "and is told what it may be told";
  EXPECT_NE(get("/v1/channels/table:orders", "all").find("table:public.orders"), std::string::npos);
  EXPECT_NE(get("/v1/tables/orders?wait=10ms", "all").find("events"), std::string::npos);
  EXPECT_NE(get("/v1/tables/orders", "none").find("forbidden"), std::string::npos);
}

TEST(gateway_feeds, the_database_is_asked_for_nobody_whom_the_feed_is_closed_to) {
  const auto grant = [](std::string_view name, std::string_view listen) {
    return "[[token]]\nname=\"" + std::string{name} + "\"\nsha256=\"" + gateway::token_sha256_hex(name) + "\"\nlisten=[\"" +
           std::string{listen} + "\"]\n";
  };
  gateway::gateway_options o;
  o.tokens = gateway::token_set::parse(grant("channels", "*") + grant("shop", "table:shop.*") + grant("any", "**")).value();
  o.origins.tokens = true;
  memory_gateway g{o};
  const auto status = [&](const std::string& table, std::string_view token) {
    raw_client c{g.port()};
    c.send("GET /v1/tables/" + table + "?wait=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" +
           (token.empty() ? "" : "Authorization: Bearer " + std::string{token} + "\r\n") + "\r\n");
    return c.read_all().substr(9, 3);
  };
  for (const auto* const table : {"orders", "public.orders", "Public.Orders", "%22public%22.orders", "nowhere"}) {
    EXPECT_EQ(status(table, ""), "401") << table;
    EXPECT_EQ(status(table, "unknown"), "401") << table;
    EXPECT_EQ(status(table, "channels"), "403") << table;
  }
  EXPECT_EQ(status("public.orders", "shop"), "403");
  EXPECT_EQ(status("Public.Orders", "shop"), "403");
  EXPECT_EQ(g.behind.questions.load(), 0);
  EXPECT_EQ(status("Shop.carts", "shop"), "403") << "not watched, and closed by this spelling";
  EXPECT_EQ(status("shop.carts", "shop"), "404");
  EXPECT_EQ(status("orders", "shop"), "403") << "it is public.orders, and it took the database to know";
  EXPECT_EQ(status("orders", "any"), "200");
  EXPECT_EQ(g.behind.questions.load(), 5) << "the last one twice: by its table's name and by its channel";
}

TEST_F(gateway_fixture, plain_listen_is_asked_once_per_channel_and_given_back) {
  {
    raw_client a{g.port()}, b{g.port()};
    a.upgrade("/v1/channels/x");
    b.upgrade("/v1/channels/x");
    EXPECT_EQ(g.behind.listened.load(), 1);
  }
  while (g.behind.listened.load() != 0) std::this_thread::yield();
}

TEST(gateway_limits, a_reader_that_never_reads_is_cut_off_with_4001_and_nobody_else_feels_it) {
  gateway::gateway_options small;
  small.limits.max_lag = 100'000;
  memory_gateway g{small};
  raw_client slow{g.port()}, quick{g.port()};
  const int tiny = 64 * 1024;
  ::setsockopt(slow.fd(), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
  slow.upgrade("/v1/channels/a");
  quick.upgrade("/v1/channels/a?format=payload");
  const std::string payload(10'000, 'x');
  std::uint64_t lsn = 2000;
  int posted = 0;
  const auto before = metrics::value(metrics::counter::slow_readers);
  while (metrics::value(metrics::counter::slow_readers) == before) {
    auto one = std::make_shared<bus::batch>();
    one->add("a", bus::kind::message, bus::payload_form::text, payload, {0x5f3a9c01, ++lsn, 0}, 0);
    g.hub.publish(one);
    ++posted;
    ASSERT_EQ(quick.read_frame().payload.size(), payload.size());
  }
  for (;;) {
    const auto f = slow.read_frame();
    if (f.opcode == 1) continue;
    ASSERT_EQ(f.opcode, 8);
    EXPECT_EQ(f.close_code(), 4001);
    break;
  }
  EXPECT_GT(posted, 10);
}

TEST(gateway_drain, clients_are_told_to_come_back) {
  auto g = std::make_unique<memory_gateway>();
  raw_client ws{g->port()}, sse{g->port()}, poll{g->port()}, multi{g->port()};
  ws.upgrade("/v1/channels/a");
  multi.upgrade("/v1/ws");
  sse.send("GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
  sse.read_until("\n\n");
  poll.send("GET /v1/channels/p?wait=60s HTTP/1.1\r\nHost: localhost\r\n\r\n");
  while (g->behind.listened.load() < 2) std::this_thread::yield();
  std::thread stopping{[&] { g.reset(); }};
  EXPECT_EQ(ws.read_frame().close_code(), 1001);
  EXPECT_EQ(multi.read_frame().close_code(), 1001);
  EXPECT_TRUE(sse.read_all().find("retry: ") != std::string::npos);
  EXPECT_TRUE(poll.read_all().find(R"({"events":[],"next":)") != std::string::npos);
  stopping.join();
}

}  // namespace
}  // namespace postbus::test
