#pragma once
#include <boost/system/result.hpp>

#include <string>
#include <string_view>

namespace postbus {

/** What went wrong, as a name. Made from errors.def. */
enum class errc {
#define ERROR(code, http, close, retry, meaning) code,
#include "base/errors.def"
#undef ERROR
};

/** What errors.def says of a code. */
struct errc_traits {
  std::string_view name;
  int http_status;
  int close_code;  ///< WebSocket close code, 0 where the error cannot end a WebSocket
  bool retry;      ///< the same call may succeed later
  std::string_view meaning;
};
const errc_traits& traits(errc code);

/**
 * An expected failure. `text` says what to do and is safe to show to a client; `detail` (server text, paths, whatever
 * may hold somebody's data) goes to the log and to the operator's own command line only.
 */
class error {
public:
  error() = default;
  error(errc error_code, std::string safe_text, std::string private_detail = {})
      : code{error_code}, text{std::move(safe_text)}, detail{std::move(private_detail)} {}

  errc code{errc::internal};
  std::string text;
  std::string detail;
};

/** Found by ADL when value() is called on a failed result: that is a defect in the caller. */
[[noreturn]] void throw_exception_from_error(const error& e, const boost::source_location& where);

template <class T = void>
using result = boost::system::result<T, error>;

}  // namespace postbus
