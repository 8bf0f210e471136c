#include "gateway/tokens.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "base/json_text.hpp"

namespace postbus::gateway {
namespace {

constexpr std::size_t max_pattern_bytes = 255;
constexpr std::array<std::string_view, 4> right_names{"listen", "post", "work", "read"};

error invalid(std::string text) { return {errc::invalid_argument, std::move(text)}; }

constexpr bool separates(char c) { return c == ':' || c == '.'; }

std::size_t segment_end(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && !separates(text[end])) ++end;
  return end;
}

bool segment_matches(std::string_view pattern, std::string_view segment) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == segment;
  const auto before = pattern.substr(0, star), after = pattern.substr(star + 1);
  return segment.size() >= before.size() + after.size() && segment.starts_with(before) && segment.ends_with(after);
}

bool decode_sha256(std::string_view hex, sha256_digest& out) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (hex.size() != 2 * out.size()) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return true;
}

/** Without a branch on any byte, four words at a time: with a thousand tokens CRYPTO_memcmp costs 35 us a request. */
bool same_digest(const sha256_digest& a, const sha256_digest& b) {
  std::array<std::uint64_t, 4> x, y;
  std::memcpy(x.data(), a.data(), a.size());
  std::memcpy(y.data(), b.data(), b.size());
  return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

bool is_printable(std::string_view text) {
  return is_utf8(text) && std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; });
}

/** Reads one [[token]] table. Throws toml::parse_error's sibling below, so that every complaint carries its line. */
class table_reader {
public:
  table_reader(std::string_view file, const toml::table& table) : file_{file}, table_{table} {}

  result<token> read() {
    token out;
    for (const auto& [key, value] : table_) {
      result<> ok;
      if (key == "name")
        ok = read_name(value, out);
      else if (key == "sha256")
        ok = read_digest(value, out);
      else if (key == "admin")
        ok = read_admin(value, out);
      else
        ok = read_grants(key.str(), value, out);
      if (!ok) return ok.error();
    }
    if (out.name.empty()) return at(table_, "a token needs a `name`");
    if (!has_digest_)
      return at(table_, fmt::format("token \"{}\" needs a `sha256`: 64 hex digits, `printf %s SECRET | sha256sum`", out.name));
    return out;
  }

  error at(const toml::node& where, std::string_view text) const {
    return invalid(fmt::format("{}:{}: {}", file_, where.source().begin.line, text));
  }

private:
  result<> read_name(const toml::node& value, token& out) {
    const auto text = value.value<std::string_view>();
    if (!value.is_string() || text->empty() || text->size() > 64 || !is_printable(*text))
      return at(value, "`name` is a text of 1 to 64 printable bytes");
    out.name = *text;
    return {};
  }
  result<> read_digest(const toml::node& value, token& out) {
    if (!value.is_string() || !decode_sha256(*value.value<std::string_view>(), out.digest))
      return at(value, "`sha256` is 64 hex digits: the SHA-256 of the secret, never the secret itself");
    has_digest_ = true;
    return {};
  }
  result<> read_admin(const toml::node& value, token& out) {
    if (!value.is_boolean()) return at(value, "`admin` is true or false");
    out.admin = *value.value<bool>();
    return {};
  }
  result<> read_grants(std::string_view key, const toml::node& value, token& out) {
    const auto* const found = std::ranges::find(right_names, key);
    if (found == right_names.end())
      return at(value, fmt::format("unknown key `{}`; a token has name, sha256, listen, post, work, read and admin", key));
    const auto* const list = value.as_array();
    if (list == nullptr) return at(value, fmt::format("`{}` is a list of patterns, such as [\"orders\", \"chat:*\"]", key));
    auto& patterns = out.grants[static_cast<std::size_t>(found - right_names.begin())];
    for (const auto& entry : *list) {
      if (!entry.is_string()) return at(entry, "a pattern is a string");
      auto pattern = grant_pattern::parse(*entry.value<std::string_view>());
      if (!pattern) return at(entry, pattern.error().text);
      patterns.push_back(std::move(*pattern));
    }
    return {};
  }

  std::string_view file_;
  const toml::table& table_;
  bool has_digest_{};
};

}  // namespace

result<grant_pattern> grant_pattern::parse(std::string_view text) {
  if (text.empty() || text.size() > max_pattern_bytes || !is_printable(text))
    return invalid("a pattern is 1 to 255 bytes of printable UTF-8");
  auto rest = text;
  if (rest.ends_with("**")) rest.remove_suffix(2);
  if (rest.contains("**")) return invalid(fmt::format("`{}`: ** may stand only at the end", text));
  while (!rest.empty()) {
    const auto end = segment_end(rest);
    if (std::ranges::count(rest.substr(0, end), '*') > 1) return invalid(fmt::format("`{}`: at most one * between separators", text));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return grant_pattern{text};
}

/** `goes_on`: more may follow behind the name's last separator. */
bool grant_pattern::fits(std::string_view name, bool goes_on) const {
  std::string_view pattern{text_};
  const bool open = pattern.ends_with("**");
  if (open) pattern.remove_suffix(2);
  for (;;) {
    if (goes_on && name.empty()) return true;
    const auto end = segment_end(pattern);
    const auto segment = pattern.substr(0, end);
    const auto name_end = segment_end(name);
    if (end == pattern.size()) {  // the last one
      if (!open) return name_end == name.size() && segment_matches(segment, name);
      const auto star = segment.find('*');
      if (star == std::string_view::npos) return name.starts_with(segment);
      // `a*b**`: b must come in this segment, anything may follow.
      return name.starts_with(segment.substr(0, star)) &&
             name.substr(star, name_end - std::min(star, name_end)).contains(segment.substr(star + 1));
    }
    if (name_end == name.size() || name[name_end] != pattern[end] || !segment_matches(segment, name.substr(0, name_end))) return false;
    pattern.remove_prefix(end + 1);
    name.remove_prefix(name_end + 1);
  }
}

bool token::may(right what, std::string_view name_of_thing) const {
  return admin ||
         std::ranges::any_of(grants[static_cast<std::size_t>(what)], [&](const grant_pattern& p) { return p.matches(name_of_thing); });
}

bool token::may_some(right what, std::string_view prefix) const {
  return admin || std::ranges::any_of(grants[static_cast<std::size_t>(what)], [&](const grant_pattern& p) { return p.reaches(prefix); });
}

result<std::shared_ptr<const token_set>> token_set::load(const std::filesystem::path& file) {
  std::ifstream in{file, std::ios::binary};
  std::ostringstream text;
  if (!in || !(text << in.rdbuf()))
    return error{errc::io, fmt::format("the tokens file {} cannot be read: {}; it holds one [[token]] table for each token "
                                       "(docs/protocol.md, \"Who may call\")",
                                       file.string(), std::strerror(errno))};
  return parse(text.view(), file.string());
}

result<std::shared_ptr<const token_set>> token_set::parse(std::string_view toml, std::string_view name) {
  auto set = std::make_shared<token_set>();
  try {
    const toml::table root = toml::parse(toml, name);
    for (const auto& [key, value] : root)
      if (key != "token")
        return invalid(fmt::format("{}:{}: unknown key `{}`; the file holds [[token]] tables", name, value.source().begin.line, key.str()));
    const auto* const node = root.get("token");
    const auto* const list = node == nullptr ? nullptr : node->as_array();
    if (list == nullptr || list->empty()) return invalid(fmt::format("{}: there is no [[token]]; nobody could use this gateway", name));
    for (const auto& entry : *list) {
      const auto* const table = entry.as_table();
      if (table == nullptr)
        return invalid(fmt::format("{}:{}: `token` must be written as [[token]] tables", name, entry.source().begin.line));
      table_reader reader{name, *table};
      auto one = reader.read();
      if (!one) return one.error();
      for (const auto& other : set->tokens_) {
        if (other.name == one->name) return reader.at(entry, fmt::format("the name \"{}\" is taken by a token above", one->name));
        if (other.digest == one->digest)
          return reader.at(entry, fmt::format("\"{}\" and \"{}\" have the same sha256", other.name, one->name));
      }
      set->tokens_.push_back(std::move(*one));
    }
  } catch (const toml::parse_error& why) {
    return invalid(fmt::format("{}:{}: {}", name, why.source().begin.line, why.description()));
  }
  return std::shared_ptr<const token_set>{std::move(set)};
}

const token* token_set::find(std::string_view presented) const { return find(token_sha256(presented)); }

const token* token_set::find(const sha256_digest& digest) const {
  const token* found = nullptr;
  for (const auto& t : tokens_)  // to the end, whatever was found
    if (same_digest(t.digest, digest)) found = &t;
  return found;
}

sha256_digest token_sha256(std::string_view secret) {
  static EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  sha256_digest out{};
  unsigned int size = 0;
  if (EVP_Digest(secret.data(), secret.size(), out.data(), &size, sha256, nullptr) != 1) throw std::runtime_error{"OpenSSL has no SHA-256"};
  return out;
}

std::string token_sha256_hex(std::string_view secret) {
  const auto digest = token_sha256(secret);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

std::string make_token_secret() {
  std::array<unsigned char, 32> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) throw std::runtime_error{"OpenSSL gave no random bytes"};
  std::string out(45, '\0');  // 44 characters and EVP_EncodeBlock's NUL
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), bytes.data(), static_cast<int>(bytes.size()));
  out.resize(43);  // without the '='
  std::ranges::replace(out, '+', '-');
  std::ranges::replace(out, '/', '_');
  return out;
}

}  // namespace postbus::gateway
