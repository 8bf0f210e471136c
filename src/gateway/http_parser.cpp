// A request in three steps.
//
// 1. The header is gathered in one string up to its empty line; line by line, as it arrives, what Beast would let pass or
//    would wait for is refused here (bare line feeds, folded fields, too much of it, something that is not HTTP at all).
// 2. Beast parses that string in one go; the fields are views into it. Then come the rules that keep two readers of the
//    same bytes from disagreeing (RFC 7230 sections 3.3.3, 5.3 and 5.4).
// 3. The body is taken as it arrives, by length or in chunks.
#include "gateway/http_parser.hpp"

#include <boost/beast/http/basic_parser.hpp>

#include <algorithm>
#include <vector>

#include "base/ascii.hpp"
#include "gateway/chunked_body.hpp"

namespace postbus::gateway {
namespace {

namespace http = boost::beast::http;
using beast_error = boost::beast::error_code;
using beast_view = boost::beast::string_view;

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

struct field {
  std::string_view name, value;
};

/** Calls Beast's grammar and keeps what it finds. One per request: Beast's parser cannot be used twice. */
class grammar final : public http::basic_parser<true> {
public:
  grammar(const http_limits& limits, std::vector<field>& fields) : fields_{fields} {
    header_limit(static_cast<std::uint32_t>(limits.header_bytes + 1));
    skip(true);  // the header only
  }

  http::verb verb{};
  std::string_view method, target;
  int version{};

private:
  void on_request_impl(http::verb v, beast_view method_text, beast_view target_text, int http_version, beast_error&) override {
    verb = v;
    method = {method_text.data(), method_text.size()};
    target = {target_text.data(), target_text.size()};
    version = http_version;
  }
  void on_field_impl(http::field, beast_view name, beast_view value, beast_error&) override {
    fields_.push_back({{name.data(), name.size()}, {value.data(), value.size()}});
  }
  void on_header_impl(beast_error&) override {}
  void on_finish_impl(beast_error&) override {}
  void on_response_impl(int, beast_view, int, beast_error&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, beast_error&) override {}
  std::size_t on_body_impl(beast_view, beast_error&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t, beast_view, beast_error&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, beast_view, beast_error&) override { return 0; }

  std::vector<field>& fields_;
};

}  // namespace

struct http_parser::state_data {
  explicit state_data(const http_limits& l) : limits{l} { fields.reserve(16); }

  http_limits limits;
  stage now{stage::need_more};
  bool wants_continue{};
  http_method method{};
  std::uint8_t empty_lines{};
  std::size_t line_start{};   // of the line being gathered
  std::size_t lines{};
  std::string head;
  std::uint64_t body_left{};  // of a body with a Content-Length
  std::optional<chunked_body> chunks;
  std::string body;
  std::string_view target;
  std::vector<field> fields;
  std::optional<grammar> beast;
  error failure;

  void fail(errc code, std::string text) {
    now = stage::failed;
    failure = {code, std::move(text)};
  }
  void bad(std::string text) { fail(errc::invalid_argument, std::move(text)); }

  std::size_t count(std::string_view name) const {
    return static_cast<std::size_t>(std::ranges::count_if(fields, [&](const field& f) { return equal_ignoring_case(f.name, name); }));
  }
  std::optional<std::string_view> find(std::string_view name) const {
    for (const auto& f : fields)
      if (equal_ignoring_case(f.name, name)) return f.value;
    return {};
  }

  std::size_t take_head(std::string_view bytes);
  bool check_line(std::string_view line);
  void parse_head();
  void beast_failed(const beast_error& why);
  void check_lengths();
  void check_host_and_target();
  std::size_t take_body(std::string_view bytes);
};

/** Gathers up to the empty line. Returns how many of `bytes` belong to the header. */
std::size_t http_parser::state_data::take_head(std::string_view bytes) {
  const auto before = head.size();
  // One more than allowed shows that there is too much.
  const auto added = std::min(bytes.size(), limits.header_bytes + 1 - std::min(before, limits.header_bytes));
  head.append(bytes.substr(0, added));
  std::size_t erased = 0;
  while (lines == 0 && head.starts_with("\r\n") && empty_lines < 2) {  // RFC 7230 section 3.5
    head.erase(0, 2);
    erased += 2;
    ++empty_lines;
  }
  if (head.empty()) return added;
  if (static_cast<unsigned char>(head[0]) <= ' ' && head[0] != '\r') {
    bad("this is not an HTTP request");
    return added;
  }
  auto from = std::max(line_start, before > erased ? before - erased : 0);
  for (;;) {
    const auto feed_at = head.find('\n', from);
    if (feed_at == std::string::npos) {
      if (head.size() > limits.header_bytes)
        fail(errc::headers_too_large, "the request's header is larger than this server takes");
      else if (added < bytes.size())
        return added + take_head(bytes.substr(added));
      return added;
    }
    if (feed_at == line_start || head[feed_at - 1] != '\r') {
      bad("lines must end with CR LF");
      return added;
    }
    const auto line = std::string_view{head}.substr(line_start, feed_at - 1 - line_start);
    line_start = from = feed_at + 1;
    if (line.empty()) {
      const auto beyond = head.size() - line_start;
      head.resize(line_start);
      if (head.size() > limits.header_bytes)
        fail(errc::headers_too_large, "the request's header is larger than this server takes");
      else if (lines == 0)
        bad("this is not an HTTP request");
      else
        parse_head();
      return added - beyond;
    }
    if (!check_line(line)) return added;
    ++lines;
  }
}

/** What can be said of a line before the header is whole. */
bool http_parser::state_data::check_line(std::string_view line) {
  if (lines > 0) {
    if (line[0] == ' ' || line[0] == '\t') {
      bad("folded header fields are not allowed");
      return false;
    }
    if (lines > limits.fields) {
      fail(errc::headers_too_large, "the request has more header fields than this server takes");
      return false;
    }
    return true;
  }
  const auto blank = line.rfind(' ');
  const auto version = blank == std::string_view::npos ? std::string_view{} : line.substr(blank + 1);
  if (!version.starts_with("HTTP/")) {
    bad("this is not an HTTP/1.0 or HTTP/1.1 request");
    return false;
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    fail(errc::http_version, "this server speaks HTTP/1.0 and HTTP/1.1");
    return false;
  }
  return true;
}

void http_parser::state_data::beast_failed(const beast_error& why) {
  if (why == http::error::header_limit) return fail(errc::headers_too_large, "the request's header is larger than this server takes");
  if (why == http::error::bad_target) return bad("the request target holds a byte that must be percent-encoded");
  if (why == http::error::bad_content_length || why == http::error::multiple_content_length || why == http::error::bad_transfer_encoding)
    return bad("Content-Length and Transfer-Encoding leave the body's length in doubt");
  bad("the request is malformed: " + why.message());
}

void http_parser::state_data::parse_head() {
  beast.emplace(limits, fields);
  beast_error why;
  const auto used = beast->put(boost::asio::const_buffer{head.data(), head.size()}, why);
  if (why) return beast_failed(why);
  if (used != head.size() || !beast->is_header_done()) return bad("the request is malformed");
  switch (beast->verb) {
    case http::verb::get: method = http_method::get; break;
    case http::verb::head: method = http_method::head; break;
    case http::verb::post: method = http_method::post; break;
    case http::verb::options: method = http_method::options; break;
    default: method = http_method::other;
  }
  target = beast->target;
  check_lengths();
  if (now != stage::failed) check_host_and_target();
  if (now == stage::failed) return;
  now = body_left > 0 || chunks ? stage::body : stage::complete;
  if (const auto expected = find("expect"); expected && beast->version == 11) {
    if (!equal_ignoring_case(*expected, "100-continue"))
      return fail(errc::expectation_failed, "the only expectation this server meets is 100-continue");
    wants_continue = now == stage::body;
  }
}

void http_parser::state_data::check_lengths() {
  const auto lengths = count("content-length"), codings = count("transfer-encoding");
  if (lengths > 1) return bad("Content-Length is given twice");
  if (lengths > 0 && codings > 0) return bad("Content-Length and Transfer-Encoding exclude each other");
  if (lengths == 1) {
    const auto value = *find("content-length");
    if (value.empty() || value.find_first_not_of("0123456789") != std::string_view::npos) return bad("Content-Length is not a number");
    body_left = beast->content_length().value_or(0);
    if (body_left > limits.body_bytes) return fail(errc::too_large, "the request's body is larger than this server takes");
  }
  if (codings == 0) return;
  if (beast->version < 11) return bad("Transfer-Encoding needs HTTP/1.1");
  if (codings > 1 || !equal_ignoring_case(*find("transfer-encoding"), "chunked"))
    return fail(errc::unsupported, "the only transfer coding this server takes is chunked");
  chunks.emplace(limits.body_bytes, limits.header_bytes);
}

void http_parser::state_data::check_host_and_target() {
  const auto hosts = count("host");
  if (hosts > 1) return bad("Host is given twice");
  if (hosts == 0 && beast->version == 11) return bad("Host is missing");
  const auto host = find("host").value_or("");
  if (host.find_first_of(" \t,/@?#\\") != std::string_view::npos) return bad("Host is malformed");

  if (target == "*") {
    if (method != http_method::options) bad("the target * belongs to OPTIONS");
    return;
  }
  if (target.starts_with('/')) return;
  for (const std::string_view scheme : {"http://", "https://"}) {  // absolute form: as a proxy would send it
    if (!equal_ignoring_case(target.substr(0, scheme.size()), scheme)) continue;
    const auto rest_of_it = target.substr(scheme.size());
    const auto authority = rest_of_it.substr(0, rest_of_it.find_first_of("/?#"));
    if (authority.empty() || !equal_ignoring_case(authority, host)) return bad("the target's authority is not that of Host");
    target = rest_of_it.substr(authority.size());
    if (target.empty()) target = "/";
    if (!target.starts_with('/')) bad("the request target must begin with /");
    return;
  }
  bad("the request target must begin with /");
}

std::size_t http_parser::state_data::take_body(std::string_view bytes) {
  if (bytes.empty()) return 0;
  wants_continue = false;
  if (!chunks) {
    bytes = bytes.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(body_left, bytes.size())));
    body += bytes;
    body_left -= bytes.size();
    if (body_left == 0) now = stage::complete;
    return bytes.size();
  }
  const auto used = chunks->feed(bytes, body);
  if (chunks->complete()) now = stage::complete;
  if (chunks->failed()) fail(chunks->failure().code, chunks->failure().text);
  return used;
}

http_parser::http_parser(const http_limits& limits) : limits_{limits} {}
http_parser::http_parser(http_parser&&) noexcept = default;
http_parser& http_parser::operator=(http_parser&&) noexcept = default;
http_parser::~http_parser() = default;

std::size_t http_parser::feed(std::string_view bytes) {
  if (bytes.empty()) return 0;
  if (state_ == nullptr) state_ = std::make_unique<state_data>(limits_);
  auto& s = *state_;
  std::size_t used = 0;
  if (s.now == stage::need_more) used = s.take_head(bytes);
  if (s.now == stage::body) used += s.take_body(bytes.substr(used));
  return used;
}

http_parser::stage http_parser::state() const { return state_ == nullptr ? stage::need_more : state_->now; }
const error& http_parser::failure() const { return state_->failure; }
bool http_parser::started() const { return state_ != nullptr && (state_->now != stage::need_more || !state_->head.empty()); }
bool http_parser::take_wants_continue() { return state_ != nullptr && std::exchange(state_->wants_continue, false); }
http_method http_parser::method() const { return state_->method; }
std::string_view http_parser::method_text() const { return state_->beast->method; }
std::string_view http_parser::target() const { return state_->target; }
int http_parser::version() const { return state_->beast->version; }
bool http_parser::keep_alive() const { return state_->beast->keep_alive(); }
std::optional<std::string_view> http_parser::header(std::string_view name) const { return state_->find(name); }
std::size_t http_parser::header_count(std::string_view name) const { return state_->count(name); }

bool http_parser::header_has(std::string_view name, std::string_view token) const {
  for (const auto& f : state_->fields) {
    if (!equal_ignoring_case(f.name, name)) continue;
    for (auto rest = f.value; !rest.empty();) {
      const auto comma = std::min(rest.find(','), rest.size());
      if (equal_ignoring_case(trimmed(rest.substr(0, comma)), token)) return true;
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
  }
  return false;
}

std::string_view http_parser::body() const { return state_->body; }
std::string http_parser::take_body() { return std::move(state_->body); }

void http_parser::reset() {
  if (state_ == nullptr) return;
  auto& s = *state_;
  s.now = stage::need_more;
  s.wants_continue = false;
  s.empty_lines = 0;
  s.line_start = s.lines = 0;
  s.head.clear();
  s.body_left = 0;
  s.chunks.reset();
  s.target = {};
  s.fields.clear();
  s.beast.reset();
  if (s.body.capacity() > 4096)
    std::string{}.swap(s.body);
  else
    s.body.clear();
}

}  // namespace postbus::gateway
