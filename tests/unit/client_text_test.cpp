#include <gtest/gtest.h>

#include "client/event_text.hpp"
#include "client/gateway_url.hpp"
#include "client/http_response.hpp"

namespace postbus::remote {
namespace {

TEST(gateway_url, takes_http_and_https_with_default_ports) {
  const auto plain = parse_gateway_url("http://127.0.0.1:7432").value();
  EXPECT_FALSE(plain.tls);
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, "7432");
  EXPECT_EQ(plain.authority(), "127.0.0.1:7432");
  const auto secure = parse_gateway_url("https://bus.example.com/postbus/").value();
  EXPECT_TRUE(secure.tls);
  EXPECT_EQ(secure.port, "443");
  EXPECT_EQ(secure.prefix, "/postbus");
  EXPECT_EQ(secure.text(), "https://bus.example.com/postbus");
}

TEST(gateway_url, keeps_the_brackets_of_ipv6_out_of_the_host) {
  const auto url = parse_gateway_url("http://[::1]:7432/").value();
  EXPECT_EQ(url.host, "::1");
  EXPECT_EQ(url.authority(), "[::1]:7432");
  EXPECT_EQ(url.prefix, "");
}

TEST(gateway_url, refuses_what_is_not_a_gateway) {
  for (const auto* bad : {"", "127.0.0.1:7432", "ws://localhost:7432", "postgres://localhost/db", "http://", "http://user:secret@host",
                          "http://host/?a=1", "http://host/#x", "http://host:0", "http://host:99999", "http://ho st"})
    EXPECT_EQ(parse_gateway_url(bad).error().code, errc::invalid_argument) << bad;
}

TEST(gateway_url, encodes_a_channel_as_one_path_segment) {
  EXPECT_EQ(percent_encode("a/b c?d#e%f\"ü"), "a%2Fb%20c%3Fd%23e%25f%22%C3%BC");
  EXPECT_EQ(percent_encode("table:public.orders"), "table%3Apublic.orders");
}

TEST(http_response, takes_a_sized_body_byte_by_byte_and_leaves_the_rest) {
  http_response answer;
  const std::string_view bytes = "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\nX-Name:  value \r\n\r\nhello";
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i) EXPECT_FALSE(answer.feed(bytes.substr(i, 1)).value()) << i;
  EXPECT_TRUE(answer.feed("oNEXT").value());
  EXPECT_EQ(answer.status(), 202);
  EXPECT_EQ(answer.body(), "hello");
  EXPECT_EQ(answer.field("x-name"), "value");
  EXPECT_EQ(answer.leftover(), "NEXT");
  EXPECT_TRUE(answer.keeps_alive());
}

TEST(http_response, takes_chunks_with_extensions_and_trailers) {
  http_response answer;
  const std::string_view bytes =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nwiki\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
  for (std::size_t i = 0; i < bytes.size(); ++i) EXPECT_EQ(answer.feed(bytes.substr(i, 1)).value(), i + 1 == bytes.size()) << i;
  EXPECT_EQ(answer.body(), "wiki0123456789");
}

TEST(http_response, a_body_without_a_length_ends_with_the_connection) {
  http_response answer;
  EXPECT_FALSE(answer.feed("HTTP/1.1 200 OK\r\n\r\nto the end").value());
  EXPECT_TRUE(answer.end());
  EXPECT_EQ(answer.body(), "to the end");
  EXPECT_FALSE(answer.keeps_alive());
}

TEST(http_response, passes_over_interim_answers_and_stops_at_101) {
  http_response answer;
  EXPECT_TRUE(answer.feed("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00").value());
  EXPECT_EQ(answer.status(), 101);
  EXPECT_EQ(answer.field("Upgrade"), "websocket");
}

TEST(http_response, refuses_what_is_no_answer) {
  for (const auto* bad : {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                          "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
                          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    http_response answer;
    const auto fed = answer.feed(bad);
    ASSERT_FALSE(fed) << bad;
    EXPECT_EQ(fed.error().code, errc::protocol) << bad;
  }
  http_response endless;
  EXPECT_EQ(endless.feed("HTTP/1.1 200 OK\r\nX: " + std::string(70'000, 'x')).error().code, errc::protocol);
  http_response large{10};
  EXPECT_EQ(large.feed("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n").error().code, errc::too_large);
  http_response chunked{10};
  EXPECT_EQ(chunked.feed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\n").error().code, errc::too_large);
  http_response cut;
  EXPECT_FALSE(cut.feed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").value());
  EXPECT_EQ(cut.end().error().code, errc::protocol);
}

TEST(http_response, a_problem_document_becomes_the_error_it_names) {
  http_response answer;
  const std::string body =
      R"({"type":"urn:postbus:error:not_watched","title":"x","status":404,"detail":"watch it first","code":"not_watched","retry":false})";
  ASSERT_TRUE(answer.feed("HTTP/1.1 404 Not Found\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body).value());
  EXPECT_EQ(problem_of(answer).code, errc::not_watched);
  EXPECT_EQ(problem_of(answer).text, "watch it first");
  http_response proxy;
  ASSERT_TRUE(proxy.feed("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<p/>").value());
  EXPECT_TRUE(traits(problem_of(proxy).code).http_status >= 500);
}

event parse_event(std::string_view frame) { return std::get<event_message>(parse_server_message(frame).value()).item; }

constexpr std::string_view head =
    R"("id":"5f3a9c01-0000000a1b2c3d40-00000003","channel":"orders","kind":"message","at":"2026-11-22T02:11:43.000123Z","payload":)";

TEST(event_text, reads_text_and_json_payloads_and_writes_the_same_json) {
  const auto text = parse_event(R"({"sub":7,)" + std::string{head} + R"("say \"hi\"\n\u00fc"})");
  EXPECT_EQ(text.position, "5f3a9c01-0000000a1b2c3d40-00000003");
  EXPECT_EQ(text.channel, "orders");
  EXPECT_EQ(text.kind, event_kind::message);
  EXPECT_EQ(text.payload, "say \"hi\"\nü");
  EXPECT_FALSE(text.is_json);
  EXPECT_EQ(to_json(text), "{" + std::string{head} + R"("say \"hi\"\nü"})");

  // 30 digits survive: they would not survive a double.
  const std::string row = R"({"n":123456789012345678901234567890.5,"s":"}]\"","deep":[[{}]]})";
  const auto json = parse_event(R"({"sub":7,)" + std::string{head} + row + "}");
  EXPECT_TRUE(json.is_json);
  EXPECT_EQ(json.payload, row);
  EXPECT_EQ(to_json(json), "{" + std::string{head} + row + "}");
}

TEST(event_text, reads_every_json_value_as_a_payload) {
  for (const auto* value : {"null", "true", "-1.5e3", "[]", "{}", "[1,2]", " 3 "}) {
    const auto e = parse_event(R"({"sub":1,)" + std::string{head} + value + "}");
    EXPECT_TRUE(e.is_json) << value;
  }
}

TEST(event_text, a_kind_from_the_future_is_unknown_and_not_an_error) {
  const auto e = parse_event(R"({"sub":1,"id":"p","channel":"c","kind":"sparkle","at":"t","payload":1})");
  EXPECT_EQ(e.kind, event_kind::unknown);
}

TEST(event_text, reads_confirmations_and_refusals) {
  const auto ok =
      std::get<confirmed_message>(parse_server_message(R"({"id":2,"ok":{"position":"5f3a9c01-0000000a1b2c3d40-00000003"}})").value());
  EXPECT_EQ(ok.id, 2);
  EXPECT_EQ(ok.position, "5f3a9c01-0000000a1b2c3d40-00000003");
  const auto no =
      std::get<refused_message>(parse_server_message(R"({"id":3,"error":{"status":403,"code":"forbidden","detail":"no"}})").value());
  EXPECT_EQ(no.id, 3);
  EXPECT_EQ(no.why.code, errc::forbidden);
  EXPECT_EQ(no.why.text, "no");
}

TEST(event_text, every_cut_of_a_message_is_refused_and_none_is_read_past_its_end) {
  const std::string whole = R"({"sub":7,)" + std::string{head} + R"({"a":["\\",{"b":null}]}})";
  ASSERT_TRUE(parse_server_message(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);  // its own allocation, so that a sanitizer sees the edge
    EXPECT_FALSE(parse_server_message(cut)) << cut;
  }
  for (const auto* bad : {"[]", "7", "{}x", R"({"id":1})", R"({"id":"x","ok":{}})", R"({"sub":1})", R"({"id":1,"ok":7})"})
    EXPECT_FALSE(parse_server_message(bad)) << bad;
}

}  // namespace
}  // namespace postbus::remote
