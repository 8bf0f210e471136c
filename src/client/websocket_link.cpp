#include "client/websocket_link.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/websocket_frame.hpp"
#include "client/http_response.hpp"

namespace postbus::remote {
namespace {

std::string random_key() {
  std::array<unsigned char, 16> bytes;
  RAND_bytes(bytes.data(), static_cast<int>(bytes.size()));
  std::array<unsigned char, 25> text;
  const int size = EVP_EncodeBlock(text.data(), bytes.data(), static_cast<int>(bytes.size()));
  return {reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(size)};
}

std::string describe_close(std::uint16_t code, std::string_view reason) {
  std::string out =
      code == websocket::close_code::none ? "the gateway closed the connection" : fmt::format("the gateway closed with {}", code);
  if (!reason.empty()) out += fmt::format(": {}", reason);
  return out;
}

errc code_of_close(std::uint16_t code) {
  switch (code) {
    case 1001: return errc::draining;
    case 4001: return errc::too_slow;
    case 4401: return errc::unauthorised;
    case 4403: return errc::forbidden;
    case 4400: return errc::invalid_argument;
    default: return errc::unavailable;
  }
}

}  // namespace

std::string request_head(const link_settings& to, std::string_view method, std::string_view target) {
  auto out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: postbus\r\n", method, to.url.prefix, target, to.url.authority());
  if (!to.token.empty()) out += fmt::format("Authorization: Bearer {}\r\n", to.token);
  return out;
}

websocket_link::websocket_link(stream connection, std::string first_bytes)
    : stream_{std::move(connection)}, parser_{websocket::role::client, max_message}, buffer_(64 * 1024) {
  if (first_bytes.size() > buffer_.size()) buffer_.resize(first_bytes.size());
  std::ranges::copy(first_bytes, buffer_.begin());
  unread_ = {buffer_.data(), first_bytes.size()};
}

result<websocket_link> websocket_link::open(const link_settings& to, steady::time_point deadline, const wakeup* wake, link_end& how) {
  auto connection = stream::connect(to.url, to.ca_file, deadline, wake);
  if (!connection) return connection.error();
  const auto key = random_key();
  const auto request = request_head(to, "GET", "/v1/ws") + fmt::format(
                                                               "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                                               "Sec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
                                                               key, websocket::subprotocol);
  if (const auto sent = connection->write_all(request, deadline); !sent) return sent.error();

  http_response answer{64 * 1024};
  std::array<char, 16 * 1024> block;
  while (!answer.complete()) {
    const auto got = connection->read_some(block.data(), block.size(), deadline);
    if (!got) return got.error();
    if (got->is == read_outcome::what::woken) return error{errc::io, "stopped"};
    if (got->is == read_outcome::what::timed_out) return error{errc::timed_out, fmt::format("{} did not answer in time", to.url.text())};
    if (got->is == read_outcome::what::end) {
      if (const auto whole = answer.end(); !whole) return whole.error();
      break;
    }
    if (const auto fed = answer.feed({block.data(), got->bytes}); !fed) return fed.error();
  }
  if (answer.status() != 101) {
    how.http_status = answer.status();
    return problem_of(answer);
  }
  if (answer.field("Sec-WebSocket-Accept") != websocket::accept_key(key))
    return error{errc::protocol, fmt::format("{} does not answer as a WebSocket server: is the URL right?", to.url.text())};
  return websocket_link{std::move(*connection), answer.leftover()};
}

result<> websocket_link::send_frame(websocket::opcode op, std::string_view payload, steady::time_point deadline) {
  std::uint32_t mask = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&mask), sizeof mask);
  std::string frame;
  websocket::append_masked_frame(frame, op, payload, mask);
  return stream_.write_all(frame, deadline);
}

result<> websocket_link::send(std::string_view text, steady::time_point deadline) {
  return send_frame(websocket::opcode::text, text, deadline);
}

websocket_link::incoming websocket_link::ended(std::uint16_t code, std::string_view reason) {
  return {.is = incoming::what::ended, .text = {}, .end = {.close_code = code, .why = {code_of_close(code), describe_close(code, reason)}}};
}

websocket_link::incoming websocket_link::broken_off(error why) {
  return {.is = incoming::what::ended, .text = {}, .end = {.why = std::move(why)}};
}

websocket_link::incoming websocket_link::next(steady::time_point deadline) {
  using what = websocket::item::what;
  for (;;) {
    while (!unread_.empty()) {
      const auto found = parser_.next(unread_);
      if (found.is == what::need_more) break;
      switch (found.is) {
        case what::text: return {.is = incoming::what::text, .text = found.payload, .end = {}};
        case what::ping:
          if (const auto sent = send_frame(websocket::opcode::pong, found.payload, steady::now() + patience); !sent)
            return broken_off(sent.error());
          break;
        case what::close: {
          const std::string reason{found.payload};
          close(found.code, {}, steady::now() + std::chrono::seconds{1});
          return ended(found.code, reason);
        }
        case what::binary:
          close(websocket::close_code::unsupported_data, "text frames only", steady::now() + std::chrono::seconds{1});
          return broken_off({errc::protocol, "the gateway sent a binary message"});
        case what::broken: {
          const std::string why{found.payload};
          close(found.code, why, steady::now() + std::chrono::seconds{1});
          return broken_off({errc::protocol, "the gateway broke the WebSocket protocol: " + why});
        }
        case what::pong:
        case what::need_more: break;
      }
    }

    const auto lost_at = heard_ + quiet + (asked_ ? patience : std::chrono::seconds{0});
    const auto got = stream_.read_some(buffer_.data(), buffer_.size(), std::min(deadline, lost_at));
    if (!got) return broken_off(got.error());
    switch (got->is) {
      case read_outcome::what::data:
        heard_ = steady::now();
        asked_ = false;
        unread_ = {buffer_.data(), got->bytes};
        break;
      case read_outcome::what::end: return broken_off({errc::io, "the gateway closed the connection"});
      case read_outcome::what::woken: return {.is = incoming::what::woken, .text = {}, .end = {}};
      case read_outcome::what::timed_out:
        if (steady::now() >= lost_at) {
          if (asked_) return broken_off({errc::timed_out, "the gateway has fallen silent"});
          if (const auto sent = send_frame(websocket::opcode::ping, {}, steady::now() + patience); !sent) return broken_off(sent.error());
          asked_ = true;
        }
        if (steady::now() >= deadline) return {.is = incoming::what::timed_out, .text = {}, .end = {}};
        break;
    }
  }
}

void websocket_link::close(std::uint16_t code, std::string_view reason, steady::time_point deadline) {
  // Best effort: the connection ends either way.
  [[maybe_unused]] const auto sent = send_frame(websocket::opcode::close, websocket::close_payload(code, reason), deadline);
}

}  // namespace postbus::remote
