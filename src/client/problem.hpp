#pragma once
#include <boost/json/object.hpp>

#include "base/result.hpp"

namespace postbus::remote {

/**
 * The error a problem document (RFC 9457) of a gateway stands for. Its `code` member, or else its status, names the
 * code; `detail` is the text. Works for any document: a proxy in between may answer with something else.
 */
error to_error(const boost::json::object& problem, int status);

/** The code of that name in errors.def; errc::internal for any other. */
errc parse_errc(std::string_view name);

}  // namespace postbus::remote
