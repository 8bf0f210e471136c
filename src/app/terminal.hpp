#pragma once
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace postbus::app {

enum class style { plain, strong, faint, good, warn, bad, name };

/** How to write to a stream: colours only on a terminal, and never with NO_COLOR (no-color.org) or TERM=dumb. */
class terminal {
public:
  explicit terminal(std::FILE* stream);
  /** For tests and for --json: says what it would be on. */
  explicit terminal(bool colours, bool is_terminal = false) : colours_{colours}, is_terminal_{is_terminal} {}

  bool is_terminal() const { return is_terminal_; }
  /** `text` in a style, or as it is. */
  std::string paint(style as, std::string_view text) const;

private:
  bool colours_{};
  bool is_terminal_{};
};

/** Columns that `text` (UTF-8) takes on a terminal: combining marks none, East Asian wide characters and emoji two. */
std::size_t display_width(std::string_view text);

/** `text` with control characters made visible (\n, \t, \x1b): somebody else's payload must not steer the terminal. */
std::string visible(std::string_view text);

/** Rows whose columns line up. Cells are plain text; a style applies to a whole column, to the header, or to one cell. */
class table {
public:
  enum class align { left, right };
  struct column {
    std::string title;
    align side{align::left};
  };
  struct cell {
    std::string text;
    style as{style::plain};
  };

  explicit table(std::vector<column> columns) : columns_{std::move(columns)} {}
  void add(std::vector<cell> row);
  bool empty() const { return rows_.empty(); }
  std::size_t size() const { return rows_.size(); }
  /** The lines, each with its line end; no trailing spaces. The header is left out when no column has a title. */
  std::string text(const terminal& on) const;

private:
  std::vector<column> columns_;
  std::vector<std::vector<cell>> rows_;
};

/** A line on stderr that is rewritten in place, at most ten times a second, and only when stderr is a terminal. */
class progress_line {
public:
  progress_line();
  ~progress_line();  ///< wipes it
  progress_line(const progress_line&) = delete;
  progress_line& operator=(const progress_line&) = delete;
  void show(std::string_view text);

private:
  bool active_;
  bool drawn_{};
  long long last_{};
};

/** 1234567 as "1,234,567". */
std::string grouped(long long number);
/** Bytes as "17.2 MB", powers of 1000. */
std::string human_bytes(double bytes);

}  // namespace postbus::app
