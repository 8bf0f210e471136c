// What the gateway's I/O-free pieces cost by themselves: one opening handshake from bytes to bytes, frames, messages, tokens.
#include <benchmark/benchmark.h>

#include <cstring>
#include <span>
#include <vector>

#include "base/websocket_parser.hpp"
#include "gateway/http_parser.hpp"
#include "gateway/origin.hpp"
#include "gateway/target.hpp"
#include "gateway/tokens.hpp"
#include "gateway/websocket.hpp"
#include "gateway/ws_message.hpp"

namespace {

using namespace postbus;

/** What Chromium 140 sends. */
constexpr std::string_view request =
    "GET /v1/channels/orders?format=payload HTTP/1.1\r\nHost: localhost:7432\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: "
    "no-cache\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: "
    "websocket\r\n"
    "Origin: http://localhost:7432\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: "
    "en-GB,en;q=0.9\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

void http_request(benchmark::State& state) {
  for (auto _ : state) {
    gateway::http_parser parser;
    benchmark::DoNotOptimize(parser.feed(request));
    if (parser.state() != gateway::http_parser::stage::complete) state.SkipWithError("not complete");
  }
}
BENCHMARK(http_request);

/** All that a session does before it is a WebSocket, but for the socket. */
void handshake(benchmark::State& state) {
  const gateway::origin_policy policy;
  std::string out;
  for (auto _ : state) {
    gateway::http_parser parser;
    parser.feed(request);
    const auto target = gateway::target::parse(parser.target());
    const auto who = gateway::check_caller(policy, {parser.header("host"), parser.header("origin"), parser.header("sec-fetch-site")});
    const auto accepted = gateway::check_upgrade(parser);
    if (!target || !who || !accepted) return state.SkipWithError("refused");
    out.clear();
    gateway::append_upgrade_response(out, *accepted, false);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(handshake);

/** `range` bytes of text per frame, arriving whole. */
void whole_frame(benchmark::State& state) {
  std::string frame;
  websocket::append_masked_frame(frame, websocket::opcode::text, std::string(static_cast<std::size_t>(state.range()), 'x'), 0x12345678);
  websocket::parser parser{websocket::role::server, 16u << 20};
  std::vector<char> received(frame.size());
  for (auto _ : state) {
    std::memcpy(received.data(), frame.data(), frame.size());
    std::span<char> input{received};
    benchmark::DoNotOptimize(parser.next(input));
  }
  state.SetBytesProcessed(state.iterations() * state.range());
}
BENCHMARK(whole_frame)->Arg(50)->Arg(200)->Arg(16 << 10);

/** A message of 1 MB that arrives 64 KiB at a time. */
void large_message(benchmark::State& state) {
  std::string frame;
  websocket::append_masked_frame(frame, websocket::opcode::text, std::string(1 << 20, 'x'), 0x12345678);
  websocket::parser parser{websocket::role::server, 16u << 20};
  std::vector<char> received(64 << 10);
  for (auto _ : state) {
    for (std::size_t at = 0; at < frame.size(); at += received.size()) {
      const auto size = std::min(received.size(), frame.size() - at);
      std::memcpy(received.data(), frame.data() + at, size);
      std::span<char> input{received.data(), size};
      while (parser.next(input).is != websocket::item::what::need_more) {
      }
    }
  }
  state.SetBytesProcessed(state.iterations() << 20);
}
BENCHMARK(large_message);

void subscribe_message(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(gateway::parse_ws_message(
        R"({"id":7,"op":"subscribe","channel":"table:public.orders","after":"5f3a9c01-0000000a1b2c3d40-00000003"})"));
}
BENCHMARK(subscribe_message);

void post_message(benchmark::State& state) {
  const std::string text = R"({"id":9,"op":"post","channel":"orders","payload":{"note":")" + std::string(200, 'x') + "\"}}";
  for (auto _ : state) benchmark::DoNotOptimize(gateway::parse_ws_message(text));
}
BENCHMARK(post_message);

/** One token among `range`, by its secret. */
void token(benchmark::State& state) {
  std::string toml;
  for (int i = 0; i < state.range(); ++i) {
    const auto n = std::to_string(i);
    toml += "[[token]]\nname=\"" + n + "\"\nsha256=\"" + gateway::token_sha256_hex(n) + "\"\nlisten=[\"table:public.*\"]\n";
  }
  const auto set = gateway::token_set::parse(toml).value();
  for (auto _ : state) {
    const auto* found = set->find("0");
    benchmark::DoNotOptimize(found != nullptr && found->may(gateway::right::listen, "table:public.orders"));
  }
}
BENCHMARK(token)->Arg(1)->Arg(1000);

}  // namespace

BENCHMARK_MAIN();
