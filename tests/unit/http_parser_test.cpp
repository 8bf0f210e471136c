#include "gateway/http_parser.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "gateway/websocket.hpp"

namespace postbus::gateway {
namespace {

using stage = http_parser::stage;

const std::string chrome =
    "GET /v1/channels/orders?after=now HTTP/1.1\r\nHost: localhost:7432\r\nConnection: keep-alive, Upgrade\r\nPragma: no-cache\r\n"
    "Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nUpgrade: websocket\r\nOrigin: http://localhost:7432\r\n"
    "Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: chat, postbus.v1\r\n\r\n";

/** Feeds all of it in pieces and returns what was not taken. */
std::string feed(http_parser& p, std::string_view bytes, std::size_t piece = 0) {
  if (piece == 0) piece = std::max<std::size_t>(bytes.size(), 1);
  while (!bytes.empty()) {
    const auto now = std::string{bytes.substr(0, piece)};  // its own memory: no view may point there afterwards
    const auto used = p.feed(now);
    EXPECT_LE(used, now.size());
    bytes.remove_prefix(used);
    if (used < now.size()) break;
  }
  return std::string{bytes};
}

errc fails(std::string_view bytes, const http_limits& limits = {}) {
  errc first{};
  for (const std::size_t piece : {0u, 1u, 3u}) {
    http_parser p{limits};
    feed(p, bytes, piece);
    EXPECT_EQ(p.state(), stage::failed) << bytes.substr(0, 200) << " in pieces of " << piece;
    if (p.state() != stage::failed) return errc::internal;
    EXPECT_FALSE(p.failure().text.empty());
    if (piece == 0) first = p.failure().code;
    EXPECT_EQ(p.failure().code, first) << bytes.substr(0, 200) << ": " << p.failure().text;
  }
  return first;
}

TEST(http_parser, reads_a_browsers_opening_handshake_at_any_cut) {
  for (const std::size_t piece : {0u, 1u, 2u, 7u, 100u}) {
    http_parser p;
    EXPECT_FALSE(p.started());
    EXPECT_EQ(feed(p, chrome, piece), "");
    ASSERT_EQ(p.state(), stage::complete);
    EXPECT_EQ(p.method(), http_method::get);
    EXPECT_EQ(p.method_text(), "GET");
    EXPECT_EQ(p.target(), "/v1/channels/orders?after=now");
    EXPECT_EQ(p.version(), 11);
    EXPECT_TRUE(p.keep_alive());
    EXPECT_EQ(p.header("host"), "localhost:7432");
    EXPECT_EQ(p.header("origin"), "http://localhost:7432");
    EXPECT_EQ(p.header("cookie"), std::nullopt);
    EXPECT_TRUE(p.header_has("connection", "upgrade"));
    EXPECT_FALSE(p.header_has("connection", "close"));
    EXPECT_EQ(p.body(), "");
  }
}

TEST(http_parser, leaves_what_follows_the_request) {
  http_parser p;
  EXPECT_EQ(feed(p, chrome + "\x81\x85mask"), "\x81\x85mask");
  EXPECT_EQ(p.feed("more"), 0u);

  http_parser q;
  const std::string two = "POST /post?channel=a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: h\r\n\r\n";
  auto rest = feed(q, two);
  EXPECT_EQ(q.body(), "hello");
  EXPECT_EQ(rest, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  q.reset();
  EXPECT_EQ(q.state(), stage::need_more);
  EXPECT_FALSE(q.started());
  EXPECT_EQ(feed(q, rest), "");
  EXPECT_EQ(q.state(), stage::complete);
  EXPECT_EQ(q.target(), "/");
  EXPECT_EQ(q.body(), "");
}

TEST(http_parser, bodies_by_length_and_in_chunks_at_any_cut) {
  const std::string chunked =
      "POST /v1/channels/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "5\r\nhello\r\n6;name=\"v\"\r\n world\r\n0\r\nTrailer: dropped\r\nHost: evil\r\n\r\n";
  const std::string plain = "POST /v1/channels/a HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world";
  for (const auto& request : {chunked, plain})
    for (std::size_t piece = 0; piece < 40; ++piece) {
      http_parser p;
      EXPECT_EQ(feed(p, request + "NEXT", piece), "NEXT") << piece;
      ASSERT_EQ(p.state(), stage::complete) << piece;
      EXPECT_EQ(p.body(), "hello world");
      EXPECT_EQ(p.header("host"), "h");
      EXPECT_EQ(p.header_count("trailer"), 0u);
      EXPECT_EQ(p.take_body(), "hello world");
    }
}

TEST(http_parser, is_moved_with_its_request) {
  http_parser p;
  feed(p, chrome.substr(0, 100));
  http_parser q{std::move(p)};
  feed(q, chrome.substr(100));
  http_parser r;
  r = std::move(q);
  ASSERT_EQ(r.state(), stage::complete);
  EXPECT_EQ(r.header("host"), "localhost:7432");
}

TEST(http_parser, expect_100_continue) {
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
  http_parser p;
  feed(p, head);
  EXPECT_EQ(p.state(), stage::body);
  EXPECT_TRUE(p.take_wants_continue());
  EXPECT_FALSE(p.take_wants_continue());
  feed(p, "ok");
  EXPECT_EQ(p.body(), "ok");

  http_parser q;  // the body came along: nobody waits
  feed(q, head + "o");
  EXPECT_FALSE(q.take_wants_continue());
  EXPECT_EQ(fails("POST / HTTP/1.1\r\nHost: h\r\nExpect: more\r\nContent-Length: 2\r\n\r\n"), errc::expectation_failed);
}

TEST(http_parser, keep_alive) {
  const auto stays = [](std::string_view head) {
    http_parser p;
    feed(p, head);
    EXPECT_EQ(p.state(), stage::complete) << head;
    return p.keep_alive();
  };
  EXPECT_TRUE(stays("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
  EXPECT_FALSE(stays("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
  EXPECT_FALSE(stays("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(stays("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

TEST(http_parser, targets) {
  const auto target = [](std::string_view line, std::string_view host = "h:1") {
    http_parser p;
    feed(p, std::string{line} + " HTTP/1.1\r\nHost: " + std::string{host} + "\r\n\r\n");
    return p.state() == stage::complete ? std::string{p.target()} : "failed: " + p.failure().text;
  };
  EXPECT_EQ(target("GET /a%2Fb?x=1&y"), "/a%2Fb?x=1&y");
  EXPECT_EQ(target("GET /post?payload={\"a\":\"\xc3\xa9\"}"), "/post?payload={\"a\":\"\xc3\xa9\"}");
  EXPECT_EQ(target("GET http://H:1/x?y"), "/x?y");
  EXPECT_EQ(target("GET HTTPS://h:1"), "/");
  EXPECT_EQ(target("OPTIONS *"), "*");
  for (const auto* bad : {"GET *", "GET http://other/x", "GET http://h:1@other/x", "GET http:///x", "GET x", "GET //", "GET http://h:1?x",
                          "CONNECT h:1", "GET ftp://h:1/"})
    if (std::string_view{bad} != "GET //") EXPECT_TRUE(target(bad).starts_with("failed")) << bad;
  EXPECT_EQ(target("GET //"), "//");
}

TEST(http_parser, requests_that_two_readers_could_understand_differently_are_refused) {
  const std::string post = "POST / HTTP/1.1\r\nHost: h\r\n";
  for (const std::string fields : {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                                   "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                                   "Content-Length: 5\r\nContent-Length: 5\r\n",
                                   "Content-Length: 5\r\nContent-Length: 6\r\n",
                                   "Content-Length: 5, 5\r\n",
                                   "Content-Length: +5\r\n",
                                   "Content-Length: -5\r\n",
                                   "Content-Length: 5 5\r\n",
                                   "Content-Length: 0x5\r\n",
                                   "Content-Length: \r\n",
                                   "Content-Length: 99999999999999999999999\r\n",
                                   "Content-Length : 5\r\n",
                                   " Content-Length: 5\r\n",
                                   "A: b\r\n c\r\n",
                                   "A: b\r\n\tc\r\n",
                                   "Host: h\r\n",
                                   "Host: other\r\n",
                                   "No colon\r\n",
                                   ": empty name\r\n",
                                   "A\x01: b\r\n",
                                   "A: b\x01\r\n",
                                   "A: b\x7f\r\n",
                                   "A: b\rc\r\n",
                                   "A: b\n",
                                   "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"})
    EXPECT_TRUE(fails(post + fields + "\r\nhello") == errc::invalid_argument || fields.starts_with("Transfer-Encoding")) << fields;
  EXPECT_EQ(fails(post + std::string("A: b\0c\r\n\r\n", 10)), errc::invalid_argument);
  EXPECT_EQ(fails("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), errc::invalid_argument);
  for (const std::string coding : {"gzip", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunked\x0b"})
    EXPECT_TRUE(fails(post + "Transfer-Encoding: " + coding + "\r\n\r\n0\r\n\r\n") == errc::unsupported || coding.ends_with('\x0b'))
        << coding;
  EXPECT_EQ(fails("GET / HTTP/1.1\r\n\r\n"), errc::invalid_argument) << "no Host";
  EXPECT_EQ(fails("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), errc::invalid_argument);
  EXPECT_EQ(fails("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), errc::invalid_argument);
  EXPECT_EQ(fails("GET / HTTP/1.1\nHost: h\n\n"), errc::invalid_argument);
}

TEST(http_parser, bad_chunks) {
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string body :
       {"x\r\n", "5\r\nhelloX", "5\r\nhello\r\r\n", "-5\r\n", "5 5\r\nhello\r\n", "\r\n", "0x5\r\nhello\r\n", "5\nhello\n0\n\n\r\n",
        "0\r\nBad trailer\r\n\r\n", "0\r\n folded: a\r\n\r\n", "0\r\n: a\r\n\r\n", "5\r\nhello\r\n\r\n", "5;a=\x01\r\n", "0\r\nA: b\n"})
    EXPECT_EQ(fails(head + body), errc::invalid_argument) << body;
  EXPECT_EQ(fails(head + "FFFFFFFFFFFFFFFFF\r\n"), errc::too_large);
  http_limits small;
  small.header_bytes = 100;
  EXPECT_EQ(fails(head + "5;a=" + std::string(200, 'x'), small), errc::invalid_argument) << "a chunk's head without end";
}

TEST(http_parser, what_is_no_http_is_noticed_at_once) {
  EXPECT_EQ(fails("GET /\r\n"), errc::invalid_argument) << "HTTP/0.9";
  EXPECT_EQ(fails("GET / HTTP/1.1 x\r\n"), errc::invalid_argument);
  EXPECT_EQ(fails("PRI * HTTP/2.0\r\n"), errc::http_version);
  EXPECT_EQ(fails("GET / HTTP/1.2\r\n"), errc::http_version);
  EXPECT_EQ(fails(std::string("\x16\x03\x01\x02", 4)), errc::invalid_argument) << "a TLS client hello";
  EXPECT_EQ(fails("\r\n\r\n\r\n"), errc::invalid_argument);
  http_parser p;
  feed(p, "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(p.state(), stage::complete) << "one empty line may come first";
}

TEST(http_parser, limits) {
  http_limits limits;
  limits.header_bytes = 200;
  limits.fields = 3;
  limits.body_bytes = 10;
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\n";
  EXPECT_EQ(fails(head + "A: " + std::string(200, 'x') + "\r\n\r\n", limits), errc::headers_too_large);
  EXPECT_EQ(fails(head + "A: " + std::string(2000, 'x'), limits), errc::headers_too_large) << "without an end";
  EXPECT_EQ(fails(std::string(2000, 'x'), limits), errc::headers_too_large);
  EXPECT_EQ(fails(head + "A: 1\r\nB: 2\r\nC: 3\r\n\r\n", limits), errc::headers_too_large);
  EXPECT_EQ(fails(head + "Content-Length: 11\r\n\r\n", limits), errc::too_large) << "before the body comes";
  EXPECT_EQ(fails(head + "Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n5\r\n", limits), errc::too_large);

  for (const int over : {0, 1}) {
    std::string bytes = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
    bytes += std::string(200 + static_cast<std::size_t>(over) - bytes.size() - 4, 'x') + "\r\n\r\n";
    http_parser p{limits};
    feed(p, bytes);
    EXPECT_EQ(p.state(), over == 0 ? stage::complete : stage::failed);
  }
}

TEST(websocket_upgrade, the_rfcs_example) {
  http_parser p;
  feed(p, chrome);
  const auto accepted = check_upgrade(p);
  ASSERT_TRUE(accepted) << accepted.error().text;
  EXPECT_TRUE(accepted->subprotocol);
  std::string out;
  append_upgrade_response(out, *accepted, true);
  EXPECT_EQ(out,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: postbus.v1\r\n\r\n");
  out.clear();
  append_upgrade_response(out, *accepted, false);
  EXPECT_FALSE(out.contains("Protocol:"));
}

TEST(websocket_upgrade, refusals) {
  const auto code = [](std::string_view from, std::string_view to) {
    auto request = chrome;
    const auto at = request.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    request.replace(at, from.size(), to);
    http_parser p;
    feed(p, request);
    EXPECT_EQ(p.state(), stage::complete) << request << p.failure().text;
    const auto checked = check_upgrade(p);
    return checked ? errc::internal : checked.error().code;
  };
  EXPECT_EQ(code("Version: 13", "Version: 8"), errc::upgrade_required);
  EXPECT_EQ(code("Sec-WebSocket-Version: 13\r\n", ""), errc::upgrade_required);
  EXPECT_EQ(code("GET", "POST"), errc::method_not_allowed);
  EXPECT_EQ(code("HTTP/1.1", "HTTP/1.0"), errc::invalid_argument);
  EXPECT_EQ(code("keep-alive, Upgrade", "keep-alive"), errc::invalid_argument);
  EXPECT_EQ(code("Upgrade: websocket", "Upgrade: h2c"), errc::invalid_argument);
  EXPECT_EQ(code("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), errc::invalid_argument);
  EXPECT_EQ(code("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="), errc::invalid_argument);
  EXPECT_EQ(code("dGhlIHNhbXBsZSBub25jZQ==", ""), errc::invalid_argument);
  EXPECT_EQ(code("Pragma: no-cache", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), errc::invalid_argument);
  EXPECT_EQ(code("Pragma: no-cache", "Content-Length: 0"), errc::internal) << "an empty body is none";
}

}  // namespace
}  // namespace postbus::gateway
