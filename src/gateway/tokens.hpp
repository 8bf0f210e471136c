#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace postbus::gateway {

/** What a token may be used for. */
enum class right : std::uint8_t { listen, post, work, read };

/**
 * A grant such as `orders`, `chat:*`, `table:public.*`, `logs.**`. `:` and `.` separate segments; `*` stands for any run of
 * characters within one segment (at most one `*` in each), `**` at the very end for the rest, separators included. Matching
 * is one pass over both texts.
 */
class grant_pattern {
public:
  static result<grant_pattern> parse(std::string_view text);
  bool matches(std::string_view name) const { return fits(name, false); }
  /** Whether it matches some name that begins with `prefix`, which ends with a separator. */
  bool reaches(std::string_view prefix) const { return fits(prefix, true); }
  std::string_view text() const { return text_; }

private:
  explicit grant_pattern(std::string_view text) : text_{text} {}
  bool fits(std::string_view name, bool goes_on) const;
  std::string text_;
};

using sha256_digest = std::array<unsigned char, 32>;

/** Who speaks: kept by sessions so that a reload of the tokens file can tell whom it concerns. */
struct identity {
  sha256_digest digest{};
  std::string name;
};

struct token {
  std::string name;
  sha256_digest digest{};
  std::array<std::vector<grant_pattern>, 4> grants;  ///< by right
  bool admin{};                                      ///< may do everything

  bool may(right what, std::string_view name_of_thing) const;
  /** Whether it may with any name that begins with `prefix`, which ends with a separator. */
  bool may_some(right what, std::string_view prefix) const;
};

/** The tokens file (TOML) as read once: immutable, shared by every session. */
class token_set {
public:
  /** Reads the file; errc::invalid_argument with line numbers for what is wrong in it, errc::io when it cannot be read. */
  static result<std::shared_ptr<const token_set>> load(const std::filesystem::path& file);
  /** `name` is what errors call the text. */
  static result<std::shared_ptr<const token_set>> parse(std::string_view toml, std::string_view name = "tokens");

  /** The token whose secret was presented, or null. Takes the same time wherever, and whether, it stands in the file. Valid as long as the set. */
  const token* find(std::string_view presented) const;
  /**
   * After a reload: the token a session came with, by its digest; null when it was revoked. The session keeps the digest, asks
   * `may` anew for what it listens to, and is closed with 4401 when revoked, its subscriptions ended with 4403 when narrowed.
   */
  const token* find(const sha256_digest& digest) const;
  const std::vector<token>& tokens() const { return tokens_; }

private:
  std::vector<token> tokens_;
};

/** A new secret (32 random bytes, base64url) for the tokens file's reader to hand out. */
std::string make_token_secret();
/** SHA-256 of a secret as 64 hex digits: the file's `sha256`. */
std::string token_sha256_hex(std::string_view secret);
sha256_digest token_sha256(std::string_view secret);

}  // namespace postbus::gateway
