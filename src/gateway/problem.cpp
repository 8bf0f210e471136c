#include "gateway/problem.hpp"

#include <fmt/format.h>

#include <iterator>

#include "base/json_text.hpp"

namespace postbus::gateway {

void append_problem(std::string& out, const error& why) {
  const auto& about = traits(why.code);
  fmt::format_to(std::back_inserter(out), R"({{"type":"urn:postbus:error:{}","title":)", about.name);
  append_json_string(out, about.meaning);
  fmt::format_to(std::back_inserter(out), R"(,"status":{},"detail":)", about.http_status);
  append_json_string(out, is_utf8(why.text) ? std::string_view{why.text} : about.meaning);
  fmt::format_to(std::back_inserter(out), R"(,"code":"{}","retry":{}}})", about.name, about.retry);
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
  }
}

}  // namespace postbus::gateway
