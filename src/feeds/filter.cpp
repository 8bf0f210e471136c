// A hand-written descent over SQL's own precedence: OR binds least, then AND, then NOT, then the comparison. Whatever goes
// in is untrusted: length, depth and number of literals are bounded, and every error names its place.
#include "feeds/filter.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/ascii.hpp"
#include "base/json_text.hpp"

namespace postbus::feeds {
namespace {

enum class token_kind : std::uint8_t { end, name, quoted_name, text, number, symbol };

struct token {
  token_kind is{token_kind::end};
  std::string text;  ///< names folded, quotes undone
  std::size_t at{};  ///< from 1
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80; }

class parser {
public:
  explicit parser(std::string_view text, std::string_view what = "the filter") : text_{text}, what_{what} {}

  result<filter_part> parse() {
    if (auto first = advance(); !first) return first.error();
    auto whole = either(0);
    if (!whole) return whole;
    if (now_.is != token_kind::end) return wrong("AND, OR or the end of the filter is expected here");
    return whole;
  }

  result<std::vector<std::string>> parse_names() {
    std::vector<std::string> names;
    do {
      if (auto ok = advance(); !ok) return ok.error();
      if (now_.is != token_kind::name && now_.is != token_kind::quoted_name) return wrong("the name of a column is expected here");
      names.push_back(now_.text);
      if (auto ok = advance(); !ok) return ok.error();
    } while (is_symbol(","));
    if (now_.is != token_kind::end) return wrong("a comma or the end of the list is expected here");
    return names;
  }

private:
  error wrong(std::string_view what) const { return wrong(what, now_.at); }
  error wrong(std::string_view what, std::size_t at) const {
    return {errc::invalid_argument, fmt::format("{}, at character {}: {}", what_, at, what)};
  }

  bool is_word(std::string_view word) const { return now_.is == token_kind::name && now_.text == word; }
  bool is_symbol(std::string_view symbol) const { return now_.is == token_kind::symbol && now_.text == symbol; }

  result<> quoted(char quote) {
    for (++place_;; ++place_) {
      if (place_ == text_.size())
        return wrong(quote == '\'' ? "the text that begins here has no closing quote" : "the name that begins here has no closing quote");
      if (text_[place_] == quote) {
        ++place_;
        if (place_ == text_.size() || text_[place_] != quote) break;  // two stand for one
      }
      now_.text += text_[place_];
    }
    if (quote == '"' && now_.text.empty()) return wrong("a name has at least one character");
    return {};
  }

  void number() {
    const auto begin = place_;
    const auto digits = [&] {
      while (place_ < text_.size() && is_digit(text_[place_])) ++place_;
    };
    if (text_[place_] == '-' || text_[place_] == '+') ++place_;
    digits();
    if (place_ < text_.size() && text_[place_] == '.') ++place_, digits();
    if (place_ < text_.size() && ascii_lower(text_[place_]) == 'e') {
      auto ahead = place_ + 1;
      if (ahead < text_.size() && (text_[ahead] == '-' || text_[ahead] == '+')) ++ahead;
      if (ahead < text_.size() && is_digit(text_[ahead])) place_ = ahead, digits();
    }
    now_.text = text_.substr(begin, place_ - begin);
  }

  /** Reads the next token into now_. */
  result<> advance() {
    while (place_ < text_.size() && is_blank(text_[place_])) ++place_;
    now_ = {.is = token_kind::end, .text = {}, .at = place_ + 1};
    if (place_ == text_.size()) return {};
    const char c = text_[place_];
    const char next = place_ + 1 < text_.size() ? text_[place_ + 1] : '\0';
    if (begins_name(c)) {
      now_.is = token_kind::name;
      for (; place_ < text_.size() && (begins_name(text_[place_]) || is_digit(text_[place_]) || text_[place_] == '$'); ++place_)
        now_.text += ascii_lower(text_[place_]);
    } else if (c == '"') {
      now_.is = token_kind::quoted_name;
      return quoted('"');
    } else if (c == '\'') {
      now_.is = token_kind::text;
      return quoted('\'');
    } else if (is_digit(c) || ((c == '-' || c == '+') && (is_digit(next) || next == '.')) || (c == '.' && is_digit(next))) {
      now_.is = token_kind::number;
      number();
      if (place_ < text_.size() && (begins_name(text_[place_]) || is_digit(text_[place_]) || text_[place_] == '.'))
        return wrong("this is no number");
      if (std::ranges::none_of(now_.text, is_digit)) return wrong("this is no number");
    } else {
      static constexpr std::string_view symbols[] = {"<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", ","};
      const auto found = std::ranges::find_if(symbols, [&](std::string_view s) { return text_.substr(place_).starts_with(s); });
      if (found == std::end(symbols)) return wrong("this character has no meaning here");
      now_.is = token_kind::symbol;
      now_.text = *found;
      place_ += found->size();
    }
    return {};
  }

  static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

  using level = result<filter_part> (parser::*)(int);
  result<filter_part> several(int depth, std::string_view word, filter_part::op op, level below) {
    auto first = (this->*below)(depth);
    if (!first || !is_word(word)) return first;
    filter_part all{.is = op, .column = {}, .literals = {}, .parts = {}};
    all.parts.push_back(std::move(*first));
    while (is_word(word)) {
      if (auto ok = advance(); !ok) return ok.error();
      auto next = (this->*below)(depth);
      if (!next) return next;
      if (++parts_ > max_filter_literals) return wrong("the filter has too many conditions");
      all.parts.push_back(std::move(*next));
    }
    return all;
  }
  result<filter_part> either(int depth) { return several(depth, "or", filter_part::op::or_, &parser::both); }
  result<filter_part> both(int depth) { return several(depth, "and", filter_part::op::and_, &parser::negation); }

  result<filter_part> negation(int depth) {
    if (depth > max_filter_depth) return wrong("the filter is nested too deeply");
    if (is_word("not")) {
      if (auto ok = advance(); !ok) return ok.error();
      auto inner = negation(depth + 1);
      if (!inner) return inner;
      filter_part made{.is = filter_part::op::not_, .column = {}, .literals = {}, .parts = {}};
      made.parts.push_back(std::move(*inner));
      return made;
    }
    if (is_symbol("(")) {
      if (auto ok = advance(); !ok) return ok.error();
      auto inner = either(depth + 1);
      if (!inner) return inner;
      if (!is_symbol(")")) return wrong("a closing parenthesis is expected here");
      if (auto ok = advance(); !ok) return ok.error();
      return inner;
    }
    return condition();
  }

  bool at_keyword() const {
    static constexpr std::string_view words[] = {"and", "or", "not", "in", "is", "like", "null", "true", "false", "escape"};
    return now_.is == token_kind::name && std::ranges::find(words, now_.text) != std::end(words);
  }

  result<literal> one_literal() {
    literal made{.is = literal::what::text, .text = now_.text, .at = now_.at};
    if (now_.is == token_kind::number)
      made.is = literal::what::number;
    else if (is_word("true") || is_word("false"))
      made.is = literal::what::boolean;
    else if (is_word("null"))
      made.is = literal::what::null;
    else if (now_.is != token_kind::text)
      return wrong("a literal is expected here: 'text', a number, true, false or null");
    if (++literals_ > max_filter_literals) return wrong(fmt::format("the filter has more than {} literals", max_filter_literals));
    if (auto ok = advance(); !ok) return ok.error();
    return made;
  }

  result<filter_part> condition() {
    if ((now_.is != token_kind::name && now_.is != token_kind::quoted_name) || at_keyword())
      return wrong(now_.is == token_kind::end ? "a condition is expected here"
                                              : "the name of a column is expected here; a literal stands to the right of its comparison");
    filter_part made{.is = filter_part::op::compare, .column = now_.text, .at = now_.at, .literals = {}, .parts = {}};
    if (auto ok = advance(); !ok) return ok.error();
    if (is_word("is")) return null_test(std::move(made));
    if (is_word("not")) {
      made.negated = true;
      if (auto ok = advance(); !ok) return ok.error();
      if (!is_word("in") && !is_word("like")) return wrong("IN or LIKE is expected behind NOT");
    }
    if (is_word("in")) return list(std::move(made));
    if (is_word("like")) return pattern(std::move(made));
    struct spelling {
      std::string_view text;
      comparison how;
    };
    static constexpr spelling spellings[] = {
        {"=", comparison::equal},       {"<>", comparison::not_equal}, {"!=", comparison::not_equal},    {"<", comparison::less},
        {"<=", comparison::less_equal}, {">", comparison::greater},    {">=", comparison::greater_equal}};
    const auto found = std::ranges::find_if(spellings, [&](const spelling& s) { return is_symbol(s.text); });
    if (found == std::end(spellings)) {  // a boolean column by itself
      made.literals.push_back({.is = literal::what::boolean, .text = "true", .at = made.at});
      if (++literals_ > max_filter_literals) return wrong("the filter has too many conditions");
      return made;
    }
    made.how = found->how;
    if (auto ok = advance(); !ok) return ok.error();
    auto value = one_literal();
    if (!value) return value.error();
    made.literals.push_back(std::move(*value));
    return made;
  }

  result<filter_part> null_test(filter_part made) {
    made.is = filter_part::op::is_null;
    if (++literals_ > max_filter_literals) return wrong("the filter has too many conditions");
    if (auto ok = advance(); !ok) return ok.error();
    if (is_word("not")) {
      made.negated = true;
      if (auto ok = advance(); !ok) return ok.error();
    }
    if (!is_word("null")) return wrong("NULL is expected here");
    if (auto ok = advance(); !ok) return ok.error();
    return made;
  }

  result<filter_part> list(filter_part made) {
    made.is = filter_part::op::in;
    if (auto ok = advance(); !ok) return ok.error();
    if (!is_symbol("(")) return wrong("a list in parentheses is expected behind IN");
    do {
      if (auto ok = advance(); !ok) return ok.error();
      auto value = one_literal();
      if (!value) return value.error();
      made.literals.push_back(std::move(*value));
    } while (is_symbol(","));
    if (!is_symbol(")")) return wrong("a comma or a closing parenthesis is expected here");
    if (auto ok = advance(); !ok) return ok.error();
    return made;
  }

  result<filter_part> pattern(filter_part made) {
    made.is = filter_part::op::like;
    if (auto ok = advance(); !ok) return ok.error();
    if (now_.is != token_kind::text && !is_word("null")) return wrong("a pattern is expected here, as 'text'");
    const auto at = now_.at;
    auto value = one_literal();
    if (!value) return value.error();
    made.literals.push_back(std::move(*value));
    if (is_word("escape")) {
      if (auto ok = advance(); !ok) return ok.error();
      if (now_.is != token_kind::text) return wrong("one character is expected here, as 'text'");
      made.escape = now_.text;
      if (std::ranges::count_if(made.escape, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }) > 1)
        return wrong("ESCAPE takes one character, or none");
      if (auto ok = advance(); !ok) return ok.error();
    }
    const std::string_view all = made.literals.front().text;
    if (all.size() > max_like_bytes) return wrong(fmt::format("a pattern has at most {} bytes", max_like_bytes), at);
    if (!made.escape.empty())
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all.substr(i).starts_with(made.escape) && (i += made.escape.size()) >= all.size())
          return wrong("a pattern must not end with its escape character", at);
    return made;
  }

  std::string_view text_, what_;
  std::size_t place_{};
  token now_;
  std::size_t literals_{}, parts_{};
};

}  // namespace

result<filter_part> parse_filter(std::string_view text) {
  if (text.size() > max_filter_bytes) return error{errc::invalid_argument, fmt::format("a filter has at most {} bytes", max_filter_bytes)};
  if (!is_utf8(text) || text.contains('\0')) return error{errc::invalid_argument, "a filter is UTF-8 text without NUL"};
  return parser{text}.parse();
}

result<> check_given(std::string_view filter) {
  if (filter.find_first_not_of(" \t\r\n") != std::string_view::npos) return {};
  return error{errc::invalid_argument, "`where` is empty: give a filter, or leave it out"};
}

result<std::vector<std::string>> parse_names(std::string_view text) {
  if (text.size() > max_filter_bytes || !is_utf8(text) || text.contains('\0'))
    return error{errc::invalid_argument, "`columns` is too long, or no UTF-8"};
  return parser{text, "`columns`"}.parse_names();
}

}  // namespace postbus::feeds
