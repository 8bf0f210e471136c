// Our own and not Beast's: that asserts (and so ends the process) on a last chunk whose line arrives alone, and waits for
// more input where the chunk is already wrong.
#include "gateway/chunked_body.hpp"

#include <algorithm>

namespace postbus::gateway {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_text(char c) { return (static_cast<unsigned char>(c) >= ' ' && c != 0x7f) || c == '\t'; }

constexpr std::string_view separators = "()<>@,;:\\\"/[]?={} \t";

}  // namespace

chunked_body::at chunked_body::fail(errc code, std::string text) {
  failure_ = {code, std::move(text)};
  return at::failed;
}

std::size_t chunked_body::feed(std::string_view bytes, std::string& out) {
  std::size_t used = 0;
  while (used < bytes.size() && at_ != at::complete && at_ != at::failed) {
    if (at_ == at::data) {
      const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size() - used));
      out += bytes.substr(used, size);
      used += size;
      left_ -= size;
      if (left_ == 0) at_ = at::data_cr;
      continue;
    }
    at_ = step(bytes[used++], out.size());
  }
  return used;
}

/** One byte outside the data. `already` is how much body there is. */
chunked_body::at chunked_body::step(char c, std::size_t already) {
  const auto malformed = [this] { return fail(errc::invalid_argument, "the chunked body is malformed"); };
  const bool framing = at_ == at::size || at_ == at::size_end || at_ == at::data_cr || at_ == at::data_lf;
  if (!framing && overhead_left_-- == 0) {
    overhead_left_ = 0;
    return fail(errc::invalid_argument, "the chunked body's extensions and trailer are larger than this server takes");
  }
  switch (at_) {
    case at::size:
    case at::size_more: {
      if (const int digit = hex_digit(c); digit >= 0) {
        left_ = left_ * 16 + static_cast<unsigned>(digit);
        if (left_ > body_limit_ - std::min(already, body_limit_))
          return fail(errc::too_large, "the request's body is larger than this server takes");
        return at::size_more;
      }
      if (at_ == at::size) return malformed();
      if (c == '\r') return at::size_end;
      return c == ';' ? at::extension : malformed();
    }
    case at::extension:
      if (c == '\r') return at::size_end;
      return is_text(c) ? at::extension : malformed();
    case at::size_end:
      if (c != '\n') return malformed();
      return left_ == 0 ? at::line : at::data;
    case at::data_cr: return c == '\r' ? at::data_lf : malformed();
    case at::data_lf: return c == '\n' ? at::size : malformed();
    case at::line:
      if (c == '\r') return at::last_end;
      [[fallthrough]];
    case at::name:
      if (c == ':') return at_ == at::line ? malformed() : at::value;
      return is_text(c) && separators.find(c) == std::string_view::npos ? at::name : malformed();
    case at::value:
      if (c == '\r') return at::line_end;
      return is_text(c) ? at::value : malformed();
    case at::line_end: return c == '\n' ? at::line : malformed();
    case at::last_end: return c == '\n' ? at::complete : malformed();
    case at::data:
    case at::complete:
    case at::failed: break;
  }
  return at_;
}

}  // namespace postbus::gateway
