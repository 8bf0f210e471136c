#include "base/websocket_frame.hpp"

#include <openssl/evp.h>

#include <array>
#include <bit>
#include <cstring>

#include "base/bytes.hpp"

namespace postbus::websocket {
namespace {

constexpr unsigned char fin_bit = 0x80, mask_bit = 0x80;

void append_header(std::string& out, opcode op, std::size_t size, unsigned char mask) {
  out += static_cast<char>(fin_bit | static_cast<unsigned char>(op));
  if (size < 126) {
    out += static_cast<char>(mask | size);
  } else if (size < 65536) {
    out += static_cast<char>(mask | 126);
    append_big(out, static_cast<std::uint16_t>(size));
  } else {
    out += static_cast<char>(mask | 127);
    append_big(out, static_cast<std::uint64_t>(size));
  }
}

}  // namespace

void append_frame_header(std::string& out, opcode op, std::size_t size) { append_header(out, op, size, 0); }

void append_frame(std::string& out, opcode op, std::string_view payload) {
  append_header(out, op, payload.size(), 0);
  out += payload;
}

void append_masked_frame(std::string& out, opcode op, std::string_view payload, std::uint32_t key) {
  append_header(out, op, payload.size(), mask_bit);
  out.append(reinterpret_cast<const char*>(&key), sizeof key);
  const auto start = out.size();
  out += payload;
  apply_mask(out.data() + start, payload.size(), key);
}

std::string close_payload(std::uint16_t code, std::string_view reason) {
  std::string payload;
  if (code == close_code::none) return payload;
  auto length = std::min(reason.size(), max_reason_bytes);
  if (length < reason.size())  // not in the middle of a character
    while (length > 0 && (static_cast<unsigned char>(reason[length]) & 0xc0) == 0x80) --length;
  append_big(payload, code);
  payload += reason.substr(0, length);
  return payload;
}

void append_close(std::string& out, std::uint16_t code, std::string_view reason) {
  append_frame(out, opcode::close, close_payload(code, reason));
}

bool is_sendable_close_code(std::uint16_t code) {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

void apply_mask(char* data, std::size_t size, std::uint32_t key, std::size_t offset) {
  // The key as it applies from data[0] on, doubled to a word: the compiler makes vector code of the loop.
  const auto shift = static_cast<int>(offset % 4 * 8);
  const std::uint32_t turned = std::endian::native == std::endian::little ? std::rotr(key, shift) : std::rotl(key, shift);
  const std::uint64_t wide = (std::uint64_t{turned} << 32) | turned;
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data + i, 8);
    word ^= wide;
    std::memcpy(data + i, &word, 8);
  }
  std::array<char, 8> rest;
  std::memcpy(rest.data(), &wide, 8);
  for (std::size_t k = 0; i < size; ++i, ++k) data[i] = static_cast<char>(data[i] ^ rest[k]);
}

std::string accept_key(std::string_view key) {
  static EVP_MD* const sha1 = EVP_MD_fetch(nullptr, "SHA1", nullptr);  // fetching each time costs more than hashing
  constexpr std::string_view magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  std::string text{key};
  text += magic;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &size, sha1, nullptr);
  std::string out(28 + 1, '\0');  // EVP_EncodeBlock ends with a NUL
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), digest.data(), static_cast<int>(size));
  out.resize(28);
  return out;
}

}  // namespace postbus::websocket
