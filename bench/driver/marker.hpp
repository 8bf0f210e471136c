#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace bench {

/**
 * Every message carries one marker, "@T" and a number of 19 digits, in a payload of lower-case letters: it survives
 * JSON, SSE and WebSocket framing unchanged, so one scan finds it whatever the protocol around it.
 */
inline constexpr std::size_t marker_digits = 19;
inline constexpr std::size_t marker_size = 2 + marker_digits;

inline void write_number(char* at, std::uint64_t number) {
  for (std::size_t i = marker_digits; i-- > 0; number /= 10) at[i] = static_cast<char>('0' + number % 10);
}
inline std::uint64_t read_number(const char* at) {
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < marker_digits; ++i) number = number * 10 + static_cast<std::uint64_t>(at[i] - '0');
  return number;
}

/** A payload of `size` bytes (at least marker_size) that begins with the marker of `number`. */
inline std::string message(std::size_t size, std::uint64_t number) {
  std::string text(size, 'x');
  text[0] = '@';
  text[1] = 'T';
  write_number(text.data() + 2, number);
  return text;
}

/** The end of a read that may hold the beginning of a marker; it is put before the next read. */
struct carry {
  unsigned char size{};
  char bytes[marker_size - 1];
};

/** Finds the markers of many streams. Where the next one was last found, `stride_`, is looked at before searching. */
class scanner {
public:
  /** Calls found(number) for each marker in data[0, size); what remains of an unfinished one goes to `left`. */
  template <class Found>
  void scan(const char* data, std::size_t size, carry& left, Found found) {
    const char* at = data;
    const char* const end = data + size;
    const char* last = nullptr;
    left.size = 0;
    while (true) {
      const auto rest = static_cast<std::size_t>(end - at);
      const auto* hit = static_cast<const char*>(rest >= 2 && at[0] == '@' && at[1] == 'T' ? at : memmem(at, rest, "@T", 2));
      if (hit == nullptr) break;
      const auto from_hit = static_cast<std::size_t>(end - hit);
      if (from_hit < marker_size) return keep(hit, end, left);
      found(read_number(hit + 2));
      if (last != nullptr) stride_ = static_cast<std::size_t>(hit - last);
      last = hit;
      const bool regular = stride_ > marker_size && from_hit >= stride_ + 2 && hit[stride_] == '@' && hit[stride_ + 1] == 'T';
      at = hit + (regular ? stride_ : marker_size);
    }
    if (size > 0 && end[-1] == '@') keep(end - 1, end, left);
  }

private:
  static void keep(const char* from, const char* end, carry& left) {
    left.size = static_cast<unsigned char>(end - from);
    std::memcpy(left.bytes, from, left.size);
  }
  std::size_t stride_{};
};

}  // namespace bench
