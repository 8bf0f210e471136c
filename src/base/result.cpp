#include "base/result.hpp"

#include <array>
#include <stdexcept>

namespace postbus {

const errc_traits& traits(errc code) {
  static constexpr errc_traits table[] = {
#define ERROR(code, http, close, retry, meaning) {#code, http, close, retry, meaning},
#include "base/errors.def"
#undef ERROR
  };
  return table[static_cast<std::size_t>(code)];
}

void throw_exception_from_error(const error& e, const boost::source_location& where) {
  throw std::logic_error(std::string{where.file_name()} + ": unchecked error: " + e.text);
}

}  // namespace postbus
