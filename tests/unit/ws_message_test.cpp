#include "gateway/ws_message.hpp"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "gateway/problem.hpp"

namespace postbus::gateway {
namespace {

template <class Op>
std::optional<Op> read(std::string_view text, std::int64_t id) {
  auto m = parse_ws_message(text);
  if (const auto* refusal = std::get_if<ws_refusal>(&m)) {
    ADD_FAILURE() << text << ": " << refusal->why.text;
    return {};
  }
  auto& request = std::get<ws_request>(m);
  EXPECT_EQ(request.id, id);
  auto* const op = std::get_if<Op>(&request.op);
  EXPECT_NE(op, nullptr) << text;
  return op == nullptr ? std::nullopt : std::optional{std::move(*op)};
}

/** "close" when there is nothing to reply to, else id and code. */
std::string refusal(std::string_view text) {
  const auto m = parse_ws_message(text);
  const auto* const refused = std::get_if<ws_refusal>(&m);
  if (refused == nullptr) return "accepted";
  EXPECT_FALSE(refused->why.text.empty());
  return (refused->id ? std::to_string(*refused->id) : "close") + " " + std::string{traits(refused->why.code).name};
}

TEST(ws_message, subscribe) {
  const auto plain = read<ws_subscribe>(R"({"id":7,"op":"subscribe","channel":"orders"})", 7);
  EXPECT_EQ(plain->channel, "orders");
  EXPECT_TRUE(std::holds_alternative<bus::from_now>(plain->after));
  const auto resumed = read<ws_subscribe>(
      R"( { "after" : "5f3a9c01-0000000a1b2c3d40-00000003", "channel":"table:public.\u006frders", "more":[{"id":1}], "op":"subscribe", "id":0 } )",
      0);
  EXPECT_EQ(resumed->channel, "table:public.orders");
  EXPECT_EQ(std::get<bus::position>(resumed->after).lsn, 0xa1b2c3d40u);
  EXPECT_EQ(resumed->filter, nullptr);
  const auto filtered = read<ws_subscribe>(
      R"({"id":1,"op":"subscribe","channel":"table:public.o","where":"a = 'x'","columns":["id","n\u00e4me"],"maybe":true})", 1);
  EXPECT_EQ(filtered->filter->where, "a = 'x'");
  EXPECT_EQ(filtered->filter->columns, (std::vector<std::string>{"id", "näme"}));
  EXPECT_TRUE(filtered->filter->maybe);
  for (const auto* wrong : {R"("where":1)", R"("columns":"a")", R"("columns":[1])", R"("columns":[["a"]])", R"("columns":[{"a":"b"}])",
                            R"("columns":["a",null])", R"("maybe":"yes")", R"("where":["a"])"})
    EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"table:public.o",)" + std::string{wrong} + "}"), "1 invalid_argument") << wrong;
  for (const auto* blank : {"", " ", R"(\t\r\n)"}) {
    const auto refused =
        parse_ws_message(R"({"id":1,"op":"subscribe","channel":"table:public.o","columns":["a"],"where":")" + std::string{blank} + "\"}");
    ASSERT_TRUE(std::holds_alternative<ws_refusal>(refused)) << blank;
    EXPECT_EQ(std::get<ws_refusal>(refused).why.text, "`where` is empty: give a filter, or leave it out");
  }
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"orders","where":"a = 1"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"table:public.o","where":")" + std::string(9000, 'a') + "\"}"), "accepted")
      << "the filter itself is refused later, with its reason";
  EXPECT_TRUE(std::holds_alternative<bus::from_beginning>(
      read<ws_subscribe>(R"({"id":1,"op":"subscribe","channel":"a","after":"beginning"})", 1)->after));
}

TEST(ws_message, subscribe_as_a_consumer_and_acknowledge) {
  const auto consumer = read<ws_subscribe>(R"({"id":7,"op":"subscribe","channel":"jobs","consumer":"billing"})", 7);
  EXPECT_EQ(consumer->consumer, "billing");
  for (const auto* senseless :
       {R"("consumer":"")", R"("consumer":1)", R"("consumer":"c","after":"beginning")", R"("consumer":"c","snapshot":true)",
        R"("consumer":"c","where":"a = 1")", R"("consumer":"c","columns":["a"])", R"("consumer":"c","maybe":true)"})
    EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"table:public.o",)" + std::string{senseless} + "}"), "1 invalid_argument")
        << senseless;
  const auto ack =
      read<ws_ack>(R"({"id":8,"op":"ack","channel":"jobs","consumer":"billing","position":"5f3a9c01-0000000a1b2c3d40-00000003"})", 8);
  EXPECT_EQ(ack->consumer, "billing");
  EXPECT_EQ(ack->position, "5f3a9c01-0000000a1b2c3d40-00000003");
  EXPECT_EQ(refusal(R"({"id":8,"op":"ack","channel":"jobs","position":"5f3a9c01-0000000a1b2c3d40-00000003"})"), "8 invalid_argument");
}

TEST(ws_message, unsubscribe) { EXPECT_EQ(read<ws_unsubscribe>(R"({"id":8,"op":"unsubscribe","sub":7})", 8)->sub, 7); }

TEST(ws_message, a_string_payload_is_posted_as_text) {
  const auto p = read<ws_post>(R"({"id":9,"op":"post","channel":"a/b 🐘","payload":"line\n\"q\" \ud83d\udc18"})", 9);
  EXPECT_EQ(p->channel, "a/b 🐘");
  EXPECT_EQ(p->payload, "line\n\"q\" 🐘");
  EXPECT_EQ(p->form, bus::payload_form::text);
  EXPECT_EQ(read<ws_post>(R"({"id":9,"op":"post","channel":"a","payload":""})", 9)->payload, "");
}

TEST(ws_message, any_other_payload_is_posted_as_the_bytes_that_came) {
  const auto json = [](const std::string& payload) {
    const auto first = read<ws_post>("{\"payload\":" + payload + ",\"id\":9,\"op\":\"post\",\"channel\":\"a\"}", 9);
    const auto last =
        read<ws_post>("{\"x\":\"}]\\\"\",\"y\":[{}],\"id\":9,\"op\":\"post\",\"channel\":\"a\", \"payload\" : " + payload + " }", 9);
    EXPECT_EQ(first->payload, last->payload);
    EXPECT_EQ(first->form, bus::payload_form::json);
    return first->payload;
  };
  for (const std::string payload : {"{}", "[]", "null", "true", "0", "-1.50e3", "123456789012345678901234567890.10",
                                    R"({"a":[1,{"b":"}]\"\\"}],"c":"\u0041"})", R"([ "x" , [ ] ])"})
    EXPECT_EQ(json(payload), payload);
}

TEST(ws_message, an_escaped_member_name_is_the_same_member) {
  EXPECT_EQ(read<ws_post>(R"({"id":9,"op":"post","channel":"a","pay\u006coad":[1]})", 9)->payload, "[1]");
}

TEST(ws_message, long_strings_that_the_parser_hands_over_in_pieces) {
  std::string payload;
  for (int i = 0; i < 20000; ++i) payload += "a\\n";
  const auto p = read<ws_post>("{\"id\":9,\"op\":\"post\",\"channel\":\"a\",\"payload\":\"" + payload + "\"}", 9);
  EXPECT_EQ(p->payload.size(), 40000u);
}

TEST(ws_message, nothing_to_reply_to) {
  for (const auto* bad : {"",
                          "x",
                          "{",
                          "[]",
                          "7",
                          "\"a\"",
                          "null",
                          "{}",
                          R"({"op":"post"})",
                          R"({"id":"1","op":"post"})",
                          R"({"id":1.5,"op":"x"})",
                          R"({"id":-1,"op":"x"})",
                          R"({"id":9007199254740992,"op":"x"})",
                          R"({"id":99999999999999999999,"op":"x"})",
                          R"({"id":1}{"id":2})",
                          R"({"id":1} x)",
                          R"({"id":1,})",
                          R"({"id":null})",
                          R"([{"id":1}])",
                          R"({"a":{"id":1}})"})
    EXPECT_EQ(refusal(bad), "close invalid_argument") << bad;
}

TEST(ws_message, refused_with_a_reply) {
  EXPECT_EQ(refusal(R"({"id":1})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"dance"})"), "1 unsupported");
  EXPECT_EQ(refusal(R"({"id":1,"op":["post"]})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":7})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":""})"), "1 invalid_channel");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"a\nb"})"), "1 invalid_channel");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":")" + std::string(256, 'a') + "\"}"), "1 invalid_channel");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":")" + std::string(100000, 'a') + "\"}"), "1 invalid_channel");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":7})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"a","after":"x"})"), "1 invalid_position");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"a","after":5})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"subscribe","channel":"a","channel":"b"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"unsubscribe"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"unsubscribe","sub":"7"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"post","channel":"a"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"post","channel":"table:public.a","payload":1})"), "1 invalid_channel");
  EXPECT_EQ(refusal(R"({"id":1,"op":"post","channel":"a","payload":"\u0000"})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"post","channel":"a","payload":{"a":["\u0000"]}})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"op":"post","channel":"a","payload":{"\u0000":1}})"), "1 invalid_argument");
  EXPECT_EQ(refusal(R"({"id":1,"x":"\u0000","op":"post","channel":"a","payload":1})"), "accepted")
      << "only the payload goes to the database";
}

TEST(ws_message, depth) {
  const auto nested = [](std::size_t levels) {
    return "{\"id\":1,\"op\":\"post\",\"channel\":\"a\",\"payload\":" + std::string(levels, '[') + std::string(levels, ']') + "}";
  };
  EXPECT_EQ(refusal(nested(63)), "accepted");
  EXPECT_EQ(refusal(nested(64)), "1 invalid_argument");
  EXPECT_EQ(refusal(nested(1'000'000)), "1 invalid_argument");
}

TEST(ws_reply, bytes) {
  std::string out;
  append_ws_ok(out, 7, {0x5f3a9c01, 0xa1b2c3d40, 3});
  EXPECT_EQ(out, R"({"id":7,"ok":{"position":"5f3a9c01-0000000a1b2c3d40-00000003"}})");
  out.clear();
  append_ws_ok(out, 8);
  EXPECT_EQ(out, R"({"id":8,"ok":{}})");
  out.clear();
  append_ws_error(out, 9, {errc::not_watched, "say \"watch\"", "private"});
  EXPECT_EQ(out, R"({"id":9,"error":{"type":"urn:postbus:error:not_watched","title":"the table is not watched","status":404,)"
                 R"("detail":"say \"watch\"","code":"not_watched","retry":false}})");
  out.clear();
  append_ws_event(out, 12, R"({"id":"x","channel":"a"})");
  EXPECT_EQ(out, R"({"sub":12,"id":"x","channel":"a"})");
  EXPECT_EQ(ws_event_bytes(12, R"({"id":"x","channel":"a"})"), out.size());
}

TEST(problem, every_code_gives_a_document_without_the_private_detail) {
  for (int i = 0; i <= static_cast<int>(errc::internal); ++i) {
    const auto code = static_cast<errc>(i);
    std::string out;
    append_problem(out, {code, "text\xff", "PRIVATE"});
    const auto parsed = boost::json::parse(out).as_object();
    EXPECT_EQ(parsed.at("status").as_int64(), traits(code).http_status);
    EXPECT_EQ(parsed.at("code").as_string(), std::string{traits(code).name});
    EXPECT_EQ(parsed.at("title").as_string(), std::string{traits(code).meaning});
    EXPECT_FALSE(out.contains("PRIVATE"));
    EXPECT_NE(reason_phrase(traits(code).http_status), "Unknown") << traits(code).name;
  }
}

}  // namespace
}  // namespace postbus::gateway
