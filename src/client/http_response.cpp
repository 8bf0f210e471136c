#include "client/http_response.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <charconv>

#include "client/problem.hpp"

namespace postbus::remote {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

error broken(std::string_view what) {
  return error{errc::protocol, "the answer is not one of a gateway: is the URL right?", std::string{what}};
}

template <class Int>
bool parse_number(std::string_view text, Int& value, int base = 10) {
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return ec == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string_view http_response::field(std::string_view name) const {
  for (const auto& [key, value] : fields_)
    if (same(key, name)) return value;
  return {};
}

std::optional<std::string> http_response::take_line() {
  const auto end = buffer_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string line{trim(std::string_view{buffer_}.substr(0, end))};
  buffer_.erase(0, end + 1);
  return line;
}

result<> http_response::parse_head(std::string_view head) {
  const auto first = head.substr(0, head.find('\n'));
  if (!first.starts_with("HTTP/1.") || first.size() < 12 || !parse_number(first.substr(9, 3), status_)) return broken("status line");
  if (first[7] == '0') keep_alive_ = false;
  head.remove_prefix(std::min(head.size(), first.size() + 1));
  fields_.clear();
  while (!head.empty()) {
    const auto line = head.substr(0, head.find('\n'));
    head.remove_prefix(std::min(head.size(), line.size() + 1));
    const auto colon = line.find(':');
    if (trim(line).empty()) continue;
    if (colon == std::string_view::npos) return broken("header field without a colon");
    fields_.emplace_back(line.substr(0, colon), trim(line.substr(colon + 1)));
  }
  if (same(field("connection"), "close")) keep_alive_ = false;

  if (status_ == 101 || status_ == 204 || status_ == 304) {
    stage_ = stage::done;
  } else if (same(field("transfer-encoding"), "chunked")) {
    stage_ = stage::chunk_size;
  } else if (const auto length = field("content-length"); !length.empty()) {
    if (!parse_number(length, left_)) return broken("content-length");
    if (left_ > body_limit_) return error{errc::too_large, "the gateway's answer is larger than this program takes"};
    stage_ = left_ == 0 ? stage::done : stage::sized;
  } else {
    keep_alive_ = false;
    stage_ = stage::until_close;
  }
  return {};
}

result<> http_response::take_chunk_size(std::string_view line) {
  if (!parse_number(trim(line.substr(0, line.find(';'))), left_, 16)) return broken("chunk size");
  if (left_ > body_limit_ - std::min(body_limit_, body_.size()))
    return error{errc::too_large, "the gateway's answer is larger than this program takes"};
  stage_ = left_ == 0 ? stage::trailers : stage::chunk_data;
  return {};
}

result<bool> http_response::feed(std::string_view bytes) {
  begun_ = begun_ || !bytes.empty();
  buffer_.append(bytes);
  for (;;) {
    switch (stage_) {
      case stage::head: {
        const auto end = buffer_.find("\r\n\r\n");
        if (end == std::string::npos) {
          if (buffer_.size() > max_head_bytes) return broken("header fields larger than 64 KiB");
          return false;
        }
        const auto head = buffer_.substr(0, end + 2);
        buffer_.erase(0, end + 4);
        if (const auto parsed = parse_head(head); !parsed) return parsed.error();
        // Interim answers (100, 103) precede the real one.
        if (status_ >= 100 && status_ < 200 && status_ != 101) stage_ = stage::head;
        break;
      }
      case stage::sized:
      case stage::chunk_data: {
        const auto take = std::min(left_, buffer_.size());
        body_.append(buffer_, 0, take);
        buffer_.erase(0, take);
        left_ -= take;
        if (left_ != 0) return false;
        stage_ = stage_ == stage::sized ? stage::done : stage::chunk_end;
        break;
      }
      case stage::chunk_size:
      case stage::chunk_end:
      case stage::trailers: {
        const auto line = take_line();
        if (!line) {
          if (buffer_.size() > max_head_bytes) return broken("chunk header");
          return false;
        }
        if (stage_ == stage::chunk_end) {
          if (!line->empty()) return broken("chunk end");
          stage_ = stage::chunk_size;
        } else if (stage_ == stage::trailers) {
          if (line->empty()) stage_ = stage::done;
        } else if (const auto taken = take_chunk_size(*line); !taken) {
          return taken.error();
        }
        break;
      }
      case stage::until_close:
        body_.append(buffer_);
        buffer_.clear();
        if (body_.size() > body_limit_) return error{errc::too_large, "the gateway's answer is larger than this program takes"};
        return false;
      case stage::done: return true;
    }
  }
}

result<> http_response::end() {
  if (stage_ == stage::until_close) stage_ = stage::done;
  if (stage_ != stage::done) return broken("the connection ended within the answer");
  return {};
}

error problem_of(const http_response& answer) {
  boost::system::error_code ec;
  const auto document = boost::json::parse(answer.body(), ec);
  if (!ec && document.is_object()) return to_error(document.get_object(), answer.status());
  return to_error({}, answer.status());
}

}  // namespace postbus::remote
