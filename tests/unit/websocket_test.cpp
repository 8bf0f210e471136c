// The frames of RFC 6455 section 5.7, and cases numbered as in the Autobahn test suite where they come from there.
#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <vector>

#include "base/utf8_stream.hpp"
#include "base/websocket_frame.hpp"
#include "base/websocket_parser.hpp"

namespace postbus::websocket {
namespace {

using what = item::what;

struct got {
  what is{};
  std::uint16_t code{};
  std::string payload;
  bool operator==(const got&) const = default;
};

std::ostream& operator<<(std::ostream& out, const got& g) {
  return out << "{" << static_cast<int>(g.is) << "," << g.code << ",\"" << g.payload.substr(0, 60) << "\" (" << g.payload.size() << ")}";
}

/** Gives `bytes` to the parser in pieces of `piece` bytes (0: all at once). The reasons of `broken` are left out. */
std::vector<got> run(parser& p, std::string bytes, std::size_t piece = 0) {
  std::vector<got> all;
  if (piece == 0) piece = std::max<std::size_t>(bytes.size(), 1);
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    // A copy on the heap of exactly this size: the sanitizers see any read beyond it.
    std::vector<char> copy(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                           bytes.begin() + static_cast<std::ptrdiff_t>(std::min(at + piece, bytes.size())));
    std::span<char> input{copy};
    for (;;) {
      const auto i = p.next(input);
      if (i.is == what::need_more) {
        EXPECT_TRUE(input.empty());
        break;
      }
      all.push_back({i.is, i.code, i.is == what::broken ? "" : std::string{i.payload}});
    }
  }
  return all;
}

std::vector<got> server_reads(const std::string& bytes, std::size_t piece = 0, std::uint32_t limit = 1 << 20) {
  parser p{role::server, limit};
  return run(p, bytes, piece);
}

constexpr std::uint32_t key = 0x3d21fa37;

/** One masked frame with any first byte. */
std::string frame(unsigned char first, std::string_view payload) {
  std::string out;
  append_masked_frame(out, opcode::text, payload, key);
  out[0] = static_cast<char>(first);
  return out;
}
std::string text(std::string_view payload) { return frame(0x81, payload); }
std::string first_text(std::string_view payload) { return frame(0x01, payload); }
std::string more(std::string_view payload) { return frame(0x00, payload); }
std::string last(std::string_view payload) { return frame(0x80, payload); }
std::string close_frame(std::uint16_t code, std::string_view reason = "") { return frame(0x88, close_payload(code, reason)); }

got message(std::string payload) { return {what::text, 0, std::move(payload)}; }
got broken(std::uint16_t code) { return {what::broken, code, ""}; }

TEST(websocket_frame, known_bytes) {
  std::string out;
  append_frame(out, opcode::text, "Hello");
  EXPECT_EQ(out, "\x81\x05Hello");
  out.clear();
  append_frame_header(out, opcode::binary, 256);
  EXPECT_EQ(out, std::string("\x82\x7e\x01\x00", 4));
  out.clear();
  append_frame_header(out, opcode::binary, 65536);
  EXPECT_EQ(out, std::string("\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10));
  out.clear();
  std::uint32_t rfc_key;
  std::memcpy(&rfc_key, "\x37\xfa\x21\x3d", 4);
  append_masked_frame(out, opcode::text, "Hello", rfc_key);
  EXPECT_EQ(out, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
}

TEST(websocket_frame, header_bytes_agrees_with_what_is_written) {
  for (const std::size_t size : {0u, 125u, 126u, 65535u, 65536u}) {
    std::string out;
    append_frame_header(out, opcode::text, size);
    EXPECT_EQ(out.size(), header_bytes(size)) << size;
  }
}

TEST(websocket_frame, mask_at_any_offset_is_its_own_inverse) {
  std::string original(200, '\0');
  for (std::size_t i = 0; i < original.size(); ++i) original[i] = static_cast<char>(i * 7);
  std::string whole = original;
  apply_mask(whole.data(), whole.size(), key);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const auto* const bytes = reinterpret_cast<const char*>(&key);
    ASSERT_EQ(whole[i], static_cast<char>(original[i] ^ bytes[i % 4])) << i;
  }
  for (std::size_t cut = 0; cut <= original.size(); ++cut) {
    std::string pieces = original;
    apply_mask(pieces.data(), cut, key, 0);
    apply_mask(pieces.data() + cut, pieces.size() - cut, key, cut);
    ASSERT_EQ(pieces, whole) << cut;
  }
}

TEST(websocket_frame, accept_key_of_the_rfc) { EXPECT_EQ(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); }

TEST(websocket_frame, close_reason_is_cut_at_a_character) {
  EXPECT_EQ(close_payload(1001, "bye"),
            "\x03\xe9"
            "bye");
  EXPECT_EQ(close_payload(close_code::none, "x"), "");
  std::string reason(122, 'a');
  reason += "\xc3\xa9";  // 124 bytes; the cut would fall inside é
  EXPECT_EQ(close_payload(1001, reason).size(), 2 + 122u);
  EXPECT_EQ(close_payload(1001, std::string(123, 'a')).size(), 125u);
}

TEST(websocket_parser, whole_frames_are_read_in_place_without_memory) {
  parser p{role::server, 1000};
  std::string bytes = text("Hello") + text("") + frame(0x82, "\xff\xfe");
  std::span<char> input{bytes};
  const auto hello = p.next(input);
  EXPECT_EQ(hello.payload, "Hello");
  EXPECT_EQ(hello.payload.data(), bytes.data() + 6);
  EXPECT_FALSE(p.pending());
  EXPECT_EQ(p.next(input).payload, "");
  EXPECT_EQ(p.next(input).is, what::binary);
  EXPECT_EQ(p.next(input).is, what::need_more);
  EXPECT_FALSE(p.pending());
  EXPECT_LE(sizeof p, 24u);
}

TEST(websocket_parser, memory_is_given_back_with_the_message) {
  parser p{role::server, 1000};
  std::string bytes = text("Hello") + first_text("a");
  std::span<char> start{bytes.data(), 3};
  EXPECT_EQ(p.next(start).is, what::need_more);
  EXPECT_TRUE(p.pending());
  std::span<char> rest{bytes.data() + 3, 8};
  EXPECT_EQ(p.next(rest).payload, "Hello");
  EXPECT_EQ(p.next(rest).is, what::need_more);
  EXPECT_FALSE(p.pending());
}

TEST(websocket_parser, every_cut_gives_the_same_items) {
  const std::string bytes = text("Hello") + frame(0x89, "ping") + first_text("He") + frame(0x89, "") + more("l") + frame(0x8a, "pong") +
                            last("lo") + text(std::string(126, 'x')) + text(std::string(70000, 'y')) + frame(0x02, "\x01") + last("\x02") +
                            text("\xf0\x9f\x90\x98") + close_frame(1000, "bye") + text("after the end");
  const std::vector<got> expected{message("Hello"),
                                  {what::ping, 0, "ping"},
                                  {what::ping, 0, ""},
                                  {what::pong, 0, "pong"},
                                  message("Hello"),
                                  message(std::string(126, 'x')),
                                  message(std::string(70000, 'y')),
                                  {what::binary, 0, "\x01\x02"},
                                  message("\xf0\x9f\x90\x98"),
                                  {what::close, 1000, "bye"}};
  for (const std::size_t piece : {0u, 1u, 2u, 3u, 5u, 7u, 13u, 64u, 127u, 4096u, 65536u})
    EXPECT_EQ(server_reads(bytes, piece), expected) << piece;
}

TEST(websocket_parser, lengths_at_their_borders) {  // 1.1.1 to 1.1.8
  for (const std::size_t size : {0u, 125u, 126u, 127u, 128u, 65535u, 65536u}) {
    const std::string payload(size, '*');
    EXPECT_EQ(server_reads(text(payload)), std::vector{message(payload)}) << size;
    EXPECT_EQ(server_reads(text(payload), 997), std::vector{message(payload)}) << size;
  }
}

TEST(websocket_parser, pings_inside_fragments) {  // 2.x, 5.x
  EXPECT_EQ(server_reads(first_text("a") + frame(0x89, std::string(125, 'p')) + last("b")),
            (std::vector<got>{{what::ping, 0, std::string(125, 'p')}, message("ab")}));
}

TEST(websocket_parser, close_inside_a_fragmented_message_ends_it) {
  EXPECT_EQ(server_reads(first_text("a") + close_frame(1001) + last("b")), (std::vector<got>{{what::close, 1001, ""}}));
}

TEST(websocket_parser, breaches_of_framing_are_1002) {
  const std::string unmasked = "\x81\x05Hello";
  const std::vector<std::pair<const char*, std::string>> cases{
      {"unmasked", unmasked},
      {"rsv1", frame(0xc1, "a")},
      {"rsv2", frame(0xa1, "a")},
      {"rsv3", frame(0x91, "a")},
      {"opcode 3", frame(0x83, "")},
      {"opcode 7", frame(0x87, "")},
      {"opcode 11", frame(0x8b, "")},
      {"opcode 15", frame(0x8f, "")},
      {"fragmented ping", frame(0x09, "a")},
      {"fragmented close", frame(0x08, "")},
      {"ping of 126 bytes", frame(0x89, std::string(126, 'a'))},
      {"continuation first", last("a")},
      {"unfinished continuation first", more("a")},
      {"16-bit length of 125", std::string("\x81\xfe\x00\x7d", 4) + std::string(129, 'a')},
      {"64-bit length of 65535", std::string("\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", 10) + std::string(4, 'a')},
      {"64-bit length with its top bit", std::string("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x01", 10) + std::string(4, 'a')},
      {"close of one byte", frame(0x88, "a")},
  };
  for (const auto& [name, bytes] : cases)
    for (const std::size_t piece : {0u, 1u})
      EXPECT_EQ(server_reads(bytes, piece), std::vector{broken(1002)}) << name << ", pieces of " << piece;
  EXPECT_EQ(server_reads(first_text("a") + text("b")), std::vector{broken(1002)});
  EXPECT_EQ(server_reads(first_text("a") + last("b") + last("c")), (std::vector<got>{message("ab"), broken(1002)}));
}

TEST(websocket_parser, a_bad_header_is_noticed_at_its_second_byte) {
  EXPECT_EQ(server_reads("\x81\x05"), std::vector{broken(1002)});
  EXPECT_EQ(server_reads("\xf1\x85"), std::vector{broken(1002)});
}

TEST(websocket_parser, close_codes) {  // 7.7.x, 7.9.x
  for (const int code : {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999})
    EXPECT_EQ(server_reads(close_frame(static_cast<std::uint16_t>(code))),
              (std::vector<got>{{what::close, static_cast<std::uint16_t>(code), ""}}))
        << code;
  for (const int code : {0, 999, 1004, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535})
    EXPECT_EQ(server_reads(close_frame(static_cast<std::uint16_t>(code))), std::vector{broken(1002)}) << code;
  EXPECT_EQ(server_reads(frame(0x88, "")), (std::vector<got>{{what::close, close_code::none, ""}}));
  EXPECT_EQ(server_reads(frame(0x88, std::string("\x03\xed", 2))), std::vector{broken(1002)}) << "1005 must not be sent";
  EXPECT_EQ(server_reads(frame(0x88, "\x03\xe8\xff")), std::vector{broken(1007)});
  EXPECT_EQ(server_reads(close_frame(1000, std::string(123, 'r'))), (std::vector<got>{{what::close, 1000, std::string(123, 'r')}}));
}

TEST(websocket_parser, text_that_is_not_utf8_is_1007) {  // 6.x
  const std::string kosme = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
  EXPECT_EQ(server_reads(text(kosme)), std::vector{message(kosme)});
  std::string bytes;  // 6.2.3: one byte per frame
  for (std::size_t i = 0; i < kosme.size(); ++i)
    bytes += i == 0 ? first_text(kosme.substr(0, 1)) : i + 1 < kosme.size() ? more(kosme.substr(i, 1)) : last(kosme.substr(i));
  EXPECT_EQ(server_reads(bytes), std::vector{message(kosme)});
  for (const std::string bad :
       {"\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\x80", "\xce", "ab\xe1\xbd", "\xf5"}) {
    EXPECT_EQ(server_reads(text(bad)), std::vector{broken(1007)});
    EXPECT_EQ(server_reads(text(bad), 1), std::vector{broken(1007)});
    EXPECT_EQ(server_reads(first_text(bad) + last("x")), std::vector{broken(1007)});
  }
  EXPECT_EQ(server_reads(frame(0x82, "\xff\xfe")), (std::vector<got>{{what::binary, 0, "\xff\xfe"}}));
}

TEST(websocket_parser, bad_utf8_is_noticed_before_its_frame_is_whole) {  // 6.4.1 to 6.4.4
  const auto bytes = text(
      "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
      "a\xf4\x90\x80\x80"
      "edited");
  parser p{role::server, 1000};
  EXPECT_EQ(run(p, bytes.substr(0, 6 + 12)), std::vector<got>{});
  EXPECT_EQ(run(p, bytes.substr(6 + 12, 2)), std::vector{broken(1007)});  // F4 90: no character begins so
}

TEST(websocket_parser, beyond_the_limit_is_1009_before_the_payload_comes) {
  EXPECT_EQ(server_reads(text(std::string(100, 'a')), 0, 100), std::vector{message(std::string(100, 'a'))});
  EXPECT_EQ(server_reads(text(std::string(101, 'a')), 0, 100), std::vector{broken(1009)});
  EXPECT_EQ(server_reads(text(std::string(101, 'a')).substr(0, 6), 1, 100), std::vector{broken(1009)}) << "the header is enough";
  EXPECT_EQ(server_reads(first_text(std::string(60, 'a')) + last(std::string(41, 'a')), 0, 100), std::vector{broken(1009)});
  EXPECT_EQ(server_reads(first_text(std::string(60, 'a')) + frame(0x89, std::string(125, 'p')) + last(std::string(40, 'a')), 0, 100).back(),
            message(std::string(100, 'a')))
      << "control frames do not count";
  const std::string huge = std::string("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 10) + "mask";
  EXPECT_EQ(server_reads(huge, 0, 0xffffffff), std::vector{broken(1009)});
  std::string wrap = first_text("0123456789") + std::string("\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 10) + "mask";
  EXPECT_EQ(server_reads(wrap, 0, 100), std::vector{broken(1009)});
}

TEST(websocket_parser, nothing_is_read_after_the_end) {
  EXPECT_EQ(server_reads(frame(0x83, "") + text("a")), std::vector{broken(1002)});
  EXPECT_EQ(server_reads(close_frame(1000) + frame(0x83, "")), (std::vector<got>{{what::close, 1000, ""}}));
}

TEST(websocket_parser, a_client_reads_unmasked_frames_only) {
  std::string bytes;
  append_frame(bytes, opcode::text, "Hello");
  append_close(bytes, 4001, "too slow");
  for (const std::size_t piece : {0u, 1u}) {
    parser p{role::client, 1000};
    EXPECT_EQ(run(p, bytes, piece), (std::vector<got>{message("Hello"), {what::close, 4001, "too slow"}}));
    parser q{role::client, 1000};
    EXPECT_EQ(run(q, text("Hello"), piece), std::vector{broken(1002)});
  }
}

TEST(utf8_stream, agrees_with_whole_texts_at_every_cut) {
  const std::string good = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x98zzzzzzzzzzzz\xef\xbf\xbf";
  for (std::size_t cut = 0; cut <= good.size(); ++cut) {
    utf8_stream s;
    ASSERT_TRUE(s.feed(std::string_view{good}.substr(0, cut)));
    ASSERT_TRUE(s.feed(std::string_view{good}.substr(cut)));
    ASSERT_TRUE(s.complete());
  }
  utf8_stream s;
  EXPECT_TRUE(s.feed("\xe2\x82"));
  EXPECT_FALSE(s.complete());
  EXPECT_FALSE(s.feed("a"));
}

}  // namespace
}  // namespace postbus::websocket
