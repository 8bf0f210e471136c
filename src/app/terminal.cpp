#include "app/terminal.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>

#include "base/clock.hpp"

namespace postbus::app {
namespace {

struct code_range {
  char32_t first, last;
};
// Unicode 15: combining marks and zero-width characters that names and payloads really hold …
constexpr std::array zero_width{code_range{0x0300, 0x036f}, code_range{0x0483, 0x0489}, code_range{0x0591, 0x05bd},
                                code_range{0x0610, 0x061a}, code_range{0x064b, 0x065f}, code_range{0x0e31, 0x0e31},
                                code_range{0x0e34, 0x0e3a}, code_range{0x1ab0, 0x1aff}, code_range{0x1dc0, 0x1dff},
                                code_range{0x200b, 0x200f}, code_range{0x20d0, 0x20ff}, code_range{0xfe00, 0xfe0f},
                                code_range{0xfe20, 0xfe2f}, code_range{0xfeff, 0xfeff}};
// … and East Asian Width W and F, with the emoji blocks.
constexpr std::array double_width{
    code_range{0x1100, 0x115f},   code_range{0x2e80, 0x303e},   code_range{0x3041, 0x33ff},   code_range{0x3400, 0x4dbf},
    code_range{0x4e00, 0x9fff},   code_range{0xa000, 0xa4cf},   code_range{0xac00, 0xd7a3},   code_range{0xf900, 0xfaff},
    code_range{0xfe30, 0xfe4f},   code_range{0xff00, 0xff60},   code_range{0xffe0, 0xffe6},   code_range{0x1f300, 0x1f64f},
    code_range{0x1f680, 0x1f6ff}, code_range{0x1f900, 0x1f9ff}, code_range{0x1fa70, 0x1faff}, code_range{0x20000, 0x3fffd}};

bool is_in(std::span<const code_range> ranges, char32_t c) {
  return std::ranges::any_of(ranges, [c](const code_range& r) { return c >= r.first && c <= r.last; });
}

/** Takes one character off valid or broken UTF-8; a broken byte stands for itself. */
char32_t take_character(std::string_view& text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const std::size_t size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  if (size == 1 || text.size() < size) {
    text.remove_prefix(1);
    return lead;
  }
  char32_t c = lead & (0xffu >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) c = c << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
  text.remove_prefix(size);
  return c;
}

constexpr std::string_view escape_of(style as) {
  switch (as) {
    case style::strong: return "\x1b[1m";
    case style::faint: return "\x1b[2m";
    case style::good: return "\x1b[32m";
    case style::warn: return "\x1b[33m";
    case style::bad: return "\x1b[31m";
    case style::name: return "\x1b[36m";
    case style::plain: break;
  }
  return {};
}

}  // namespace

terminal::terminal(std::FILE* stream) : is_terminal_{::isatty(::fileno(stream)) == 1} {
  const char* none = std::getenv("NO_COLOR");
  const char* kind = std::getenv("TERM");
  colours_ = is_terminal_ && !(none && *none) && !(kind && std::string_view{kind} == "dumb");
}

std::string terminal::paint(style as, std::string_view text) const {
  if (!colours_ || as == style::plain || text.empty()) return std::string{text};
  return fmt::format("{}{}\x1b[0m", escape_of(as), text);
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    const auto c = take_character(text);
    width += c < 0x300 ? 1u : is_in(zero_width, c) ? 0u : is_in(double_width, c) ? 2u : 1u;
  }
  return width;
}

std::string visible(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto whole = text;
    const auto c = take_character(text);
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\r')
      out += "\\r";
    else if (c < 0x20 || (c >= 0x7f && c < 0xa0))
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    else
      out += whole.substr(0, whole.size() - text.size());
  }
  return out;
}

void table::add(std::vector<cell> row) {
  row.resize(columns_.size());
  for (auto& c : row) c.text = visible(c.text);
  rows_.push_back(std::move(row));
}

std::string table::text(const terminal& on) const {
  std::vector<std::size_t> widths;
  for (const auto& c : columns_) widths.push_back(display_width(c.title));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i].text));

  std::string out;
  const auto line = [&](const std::vector<cell>& cells) {
    std::string painted;
    std::size_t pending = 0;  // spaces that are written only when something follows
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (i > 0) pending += 2;
      const auto padding = widths[i] - display_width(cells[i].text);
      const bool right = columns_[i].side == align::right;
      if (right) pending += padding;
      if (!cells[i].text.empty()) {
        painted.append(pending, ' ');
        pending = 0;
        painted += on.paint(cells[i].as, cells[i].text);
      }
      if (!right) pending += padding;
    }
    out += painted;
    out += '\n';
  };
  if (std::ranges::any_of(columns_, [](const column& c) { return !c.title.empty(); })) {
    std::vector<cell> header;
    for (const auto& c : columns_) header.push_back({c.title, style::strong});
    line(header);
  }
  for (const auto& row : rows_) line(row);
  return out;
}

progress_line::progress_line() : active_{::isatty(STDERR_FILENO) == 1} {}

progress_line::~progress_line() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
}

void progress_line::show(std::string_view text) {
  if (!active_) return;
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(steady::now().time_since_epoch()).count();
  if (now - last_ < 100) return;
  last_ = now;
  drawn_ = true;
  fmt::print(stderr, "\r{}\x1b[K", text);
  std::fflush(stderr);
}

std::string grouped(long long number) {
  auto digits = fmt::format("{}", number);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return digits;
}

std::string human_bytes(double bytes) {
  constexpr std::array units{"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < units.size()) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.{}f} {}", bytes, bytes < 99.95 ? 1 : 0, units[unit]);
}

}  // namespace postbus::app
