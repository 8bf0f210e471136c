#include "postgres/conninfo_parts.hpp"

#include <libpq-fe.h>

#include <memory>

namespace postbus::postgres {
namespace {

struct free_options {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

}  // namespace

result<std::vector<std::pair<std::string, std::string>>> parse_conninfo(const std::string& text) {
  char* said = nullptr;
  const std::unique_ptr<PQconninfoOption, free_options> parsed{PQconninfoParse(text.c_str(), &said)};
  if (!parsed) {
    PQfreemem(said);  // not shown: it may repeat a part of the password
    return error{errc::invalid_argument, "the database's URL is malformed; it looks like postgresql://user:password@host:5432/name"};
  }
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto* option = parsed.get(); option->keyword; ++option)
    if (option->val && *option->val) out.emplace_back(option->keyword, option->val);
  return out;
}

std::string format_conninfo(const std::vector<std::pair<std::string, std::string>>& parts) {
  std::string out;
  for (const auto& [keyword, value] : parts) {
    if (!out.empty()) out += ' ';
    out += keyword + "='";
    for (const char c : value) {
      if (c == '\'' || c == '\\') out += '\\';
      out += c;
    }
    out += '\'';
  }
  return out;
}

}  // namespace postbus::postgres
