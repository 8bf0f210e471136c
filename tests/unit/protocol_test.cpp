// docs/protocol.md is run, example by example, against a real gateway.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "support/memory_gateway.hpp"

namespace postbus::test {
namespace {

struct example {
  std::string kind;  // http, websocket
  int line{};
  std::vector<std::string> lines;
};

std::vector<example> read_examples(const std::string& path) {
  std::ifstream file{path};
  std::vector<example> all;
  std::string line;
  bool inside = false;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.starts_with("```")) {
      inside = !inside && line.size() > 3;
      if (inside) all.push_back({line.substr(3), number, {}});
    } else if (inside) {
      all.back().lines.push_back(line);
    }
  }
  return all;
}

/** Whether `text` is `pattern`, in which … stands for anything. */
bool matches(std::string_view text, std::string_view pattern) {
  constexpr std::string_view anything = "…";
  const auto gap = pattern.find(anything);
  if (gap == std::string_view::npos) return text == pattern;
  if (!text.starts_with(pattern.substr(0, gap))) return false;
  text.remove_prefix(gap);
  pattern.remove_prefix(gap + anything.size());
  for (std::size_t skip = 0; skip <= text.size(); ++skip)
    if (matches(text.substr(skip), pattern)) return true;
  return false;
}

std::string sent(const std::string& line) { return line.size() > 2 ? line.substr(2) : std::string{}; }

void run_http(std::uint16_t port, const example& e) {
  raw_client client{port};
  std::string request;
  std::vector<std::string> expected;
  bool body = false;
  for (const auto& line : e.lines) {
    if (line.starts_with("<")) {
      expected.push_back(sent(line));
    } else {
      request += sent(line);
      if (!body) request += "\r\n";
      body = body || sent(line).empty();
    }
  }
  client.send(request);
  // Byte by byte, because neither a body of known length nor a stream ends where an example's last line does.
  std::string seen, line;
  for (std::size_t next = 0; next < expected.size();) {
    try {
      const auto byte = client.read_bytes(1);
      seen += byte;
      if (byte == "\n" || byte == "\r")
        line.clear();
      else
        line += byte;
    } catch (const std::exception&) {
      FAIL() << "'" << expected[next] << "' did not come; seen:\n" << seen;
    }
    if (!matches(line, expected[next])) continue;
    line.clear();
    ++next;
  }
}

void run_websocket(std::uint16_t port, const example& e) {
  raw_client client{port};
  for (const auto& line : e.lines) {
    if (line.starts_with("> GET "))
      ASSERT_TRUE(client.upgrade(line.substr(6), "Sec-WebSocket-Protocol: postbus.v1\r\n").starts_with("HTTP/1.1 101 "));
    else if (line.starts_with(">"))
      client.send_text(sent(line));
    else {
      const auto got = client.read_frame().payload;
      ASSERT_TRUE(matches(got, sent(line))) << "docs/protocol.md:" << e.line << "\nwanted " << sent(line) << "\ngot    " << got;
    }
  }
}

TEST(protocol_page, every_example_is_true) {
  const auto examples = read_examples(POSTBUS_SOURCE_DIR "/docs/protocol.md");
  ASSERT_GT(examples.size(), 10u);
  memory_gateway g;
  for (const auto& e : examples) {
    SCOPED_TRACE("docs/protocol.md:" + std::to_string(e.line));
    if (e.kind == "http") run_http(g.port(), e);
    if (e.kind == "websocket") run_websocket(g.port(), e);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace postbus::test
