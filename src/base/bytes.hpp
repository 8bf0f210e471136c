#pragma once
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace postbus {

/** Reads a big-endian integer at `p`; the caller has checked that sizeof(Int) bytes are there. */
template <std::integral Int>
Int load_big(const char* p) {
  Int value;
  std::memcpy(&value, p, sizeof value);
  if constexpr (std::endian::native == std::endian::little && sizeof value > 1) value = std::byteswap(value);
  return value;
}

/** Appends `value` in network byte order. */
template <std::integral Int>
void append_big(std::string& out, Int value) {
  if constexpr (std::endian::native == std::endian::little && sizeof value > 1) value = std::byteswap(value);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/** A cursor over untrusted bytes. Every read says whether the bytes were there; after one failure all further reads fail. */
class byte_reader {
public:
  explicit byte_reader(std::string_view bytes) : rest_{bytes} {}

  template <std::integral Int>
  std::optional<Int> big() {
    if (rest_.size() < sizeof(Int)) return fail();
    const Int value = load_big<Int>(rest_.data());
    rest_.remove_prefix(sizeof(Int));
    return value;
  }
  std::optional<std::string_view> bytes(std::size_t count) {
    if (rest_.size() < count) return fail();
    const auto taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  /** Up to the next NUL, which is consumed and not returned. */
  std::optional<std::string_view> c_string() {
    const auto end = rest_.find('\0');
    if (end == std::string_view::npos) return fail();
    const auto taken = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return taken;
  }
  std::string_view rest() const { return rest_; }

private:
  std::nullopt_t fail() {
    rest_ = {};
    return std::nullopt;
  }
  std::string_view rest_;
};

}  // namespace postbus
