#include <libpq-fe.h>

#include "postgres/connection.hpp"

namespace postbus::postgres {
namespace {

const PGresult* as_pg(void* held) { return static_cast<const PGresult*>(held); }

}  // namespace

rows::rows() = default;
rows::rows(void* pg_result) : held_{pg_result} {}
rows::rows(rows&&) noexcept = default;
rows& rows::operator=(rows&&) noexcept = default;
rows::~rows() = default;

void rows::clear::operator()(void* pg_result) const { PQclear(static_cast<PGresult*>(pg_result)); }

std::size_t rows::size() const { return static_cast<std::size_t>(PQntuples(as_pg(held_.get()))); }

std::size_t rows::columns() const { return static_cast<std::size_t>(PQnfields(as_pg(held_.get()))); }

std::string_view rows::name(std::size_t column) const {
  const char* text = PQfname(as_pg(held_.get()), static_cast<int>(column));
  return text ? std::string_view{text} : std::string_view{};
}

std::optional<std::string_view> rows::get(std::size_t row, std::size_t column) const {
  const auto* result = as_pg(held_.get());
  const int r = static_cast<int>(row);
  const int c = static_cast<int>(column);
  if (!result || row >= size() || column >= columns() || PQgetisnull(result, r, c)) return std::nullopt;
  return std::string_view{PQgetvalue(result, r, c), static_cast<std::size_t>(PQgetlength(result, r, c))};
}

std::string_view rows::text(std::size_t row, std::size_t column) const { return get(row, column).value_or(std::string_view{}); }

std::string quote_identifier(std::string_view name) {
  std::string quoted{"\""};
  for (const char c : name) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted += '"';
}

std::string quote_literal(std::string_view text) {
  std::string quoted{text.contains('\\') ? " E'" : "'"};
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += c;
    quoted += c;
  }
  return quoted += '\'';
}

}  // namespace postbus::postgres
