#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <sstream>

#include "app/config_file.hpp"
#include "app/durations.hpp"
#include "app/line_reader.hpp"
#include "app/terminal.hpp"

namespace postbus::app {
namespace {

using std::chrono::milliseconds;

TEST(durations, take_the_usual_units) {
  EXPECT_EQ(parse_duration("500ms"), milliseconds{500});
  EXPECT_EQ(parse_duration("30"), milliseconds{30'000});
  EXPECT_EQ(parse_duration("30s"), milliseconds{30'000});
  EXPECT_EQ(parse_duration("5m"), milliseconds{300'000});
  EXPECT_EQ(parse_duration("2h"), milliseconds{7'200'000});
  EXPECT_EQ(parse_duration("0"), milliseconds{0});
  for (const auto* bad : {"", "s", "-1s", "1d", "1.5s", "5 m", "99999999999999999999", "9000h"}) EXPECT_FALSE(parse_duration(bad)) << bad;
}

TEST(terminal_text, width_counts_columns_and_not_bytes) {
  EXPECT_EQ(display_width("orders"), 6u);
  EXPECT_EQ(display_width("größe"), 5u);
  EXPECT_EQ(display_width("e\xcc\x81"), 1u);  // e and a combining acute
  EXPECT_EQ(display_width("注文"), 4u);
  EXPECT_EQ(display_width("📦"), 2u);
  EXPECT_EQ(display_width(""), 0u);
  EXPECT_EQ(display_width("\xff\xc3"), 2u);  // broken UTF-8: a column a byte
}

TEST(terminal_text, control_characters_become_visible) {
  EXPECT_EQ(visible("a\nb\tc\r"), "a\\nb\\tc\\r");
  EXPECT_EQ(visible("\x1b[2Jgone"), "\\x1b[2Jgone");
  EXPECT_EQ(visible("\xc2\x9b"
                    "31m"),
            "\\x9b31m");  // the one-character CSI
  EXPECT_EQ(visible("größe 📦"), "größe 📦");
}

TEST(terminal_text, columns_line_up_and_lines_end_without_spaces) {
  table out{{{"channel"}, {"events", table::align::right}, {"last"}}};
  out.add({{"注文"}, {"7"}, {"x"}});
  out.add({{"orders"}, {"1,000"}});
  EXPECT_EQ(out.text(terminal{false}),
            "channel  events  last\n"
            "注文          7  x\n"
            "orders    1,000\n");
}

TEST(terminal_text, colours_only_where_allowed_and_outside_the_padding) {
  table out{{{}, {}}};
  out.add({{"a", style::name}, {"b"}});
  EXPECT_EQ(out.text(terminal{true}), "\x1b[36ma\x1b[0m  b\n");
  EXPECT_EQ(out.text(terminal{false}), "a  b\n");
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  std::FILE* const pipe = ::fdopen(ends[1], "w");
  EXPECT_FALSE(terminal{pipe}.is_terminal());
  EXPECT_EQ(terminal{pipe}.paint(style::bad, "x"), "x");
  std::fclose(pipe);
  ::close(ends[0]);
}

TEST(terminal_text, numbers_for_people) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(-1000), "-1,000");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1'500), "1.5 kB");
  EXPECT_EQ(human_bytes(64u << 20), "67.1 MB");
  EXPECT_EQ(human_bytes(123e9), "123 GB");
}

class lines_of : public testing::Test {
protected:
  lines_of() { EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0); }
  ~lines_of() override {
    ::close(ends[0]);
    end();
  }
  void put(std::string_view text) const { ASSERT_EQ(::write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size())); }
  void end() {
    if (ends[1] >= 0) ::close(ends[1]);
    ends[1] = -1;
  }
  std::array<int, 2> ends{};
};

TEST_F(lines_of, a_pipe_come_one_by_one_and_it_is_known_which_are_here) {
  line_reader in{ends[0]};
  put("one\n\ntwo\r\nthr");
  EXPECT_EQ(in.next().value(), "one");
  EXPECT_TRUE(in.ready());
  EXPECT_EQ(in.next().value(), "");
  EXPECT_EQ(in.next().value(), "two\r");
  EXPECT_FALSE(in.ready());
  put("ee");
  end();
  EXPECT_EQ(in.next().value(), "three");
  EXPECT_EQ(in.next().value(), std::nullopt);
  EXPECT_EQ(in.next().value(), std::nullopt);
}

TEST_F(lines_of, nothing_are_none) {
  line_reader in{ends[0]};
  end();
  EXPECT_EQ(in.next().value(), std::nullopt);
}

TEST(config_file, is_toml_with_tables_as_commands) {
  std::istringstream text{"url = \"https://bus.example.com\"  # a comment\n[serve]\nport = 8000\nbehind-proxy = true\n"};
  const auto items = parse_config(text).value();
  ASSERT_EQ(items.size(), 3u);
  for (const auto& item : items) {
    if (item.name == "url") {
      EXPECT_TRUE(item.tables.empty());
      EXPECT_EQ(item.values, std::vector<std::string>{"https://bus.example.com"});
    } else {
      EXPECT_EQ(item.tables, std::vector<std::string>{"serve"});
      EXPECT_EQ(item.values.front(), item.name == "port" ? "8000" : "true");
    }
  }
}

TEST(config_file, names_the_line_of_a_mistake) {
  std::istringstream broken{"db = \"a\"\nurl = \n"};
  EXPECT_NE(parse_config(broken).error().text.find("line 2"), std::string::npos);
  std::istringstream odd{"\n\nport = 1.5\n"};
  EXPECT_NE(parse_config(odd).error().text.find("line 3"), std::string::npos);
}

}  // namespace
}  // namespace postbus::app
