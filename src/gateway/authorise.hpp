#pragma once
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "gateway/tokens.hpp"

namespace postbus::gateway {

class loop;

/** Whether `who` (null: no token was shown) may, as authorise() says it; counted nowhere. */
bool permits(loop& home, const identity* who, right what, std::string_view name);
/** The channel that a table's feed has by its name alone. */
std::string feed_named(std::string_view table);
/** Whether some feed that `table` may stand for is one that `who` may listen to, as far as can be said without asking the database. */
bool may_name_table(loop& home, const identity* who, std::string_view table);
/** The refusal of a request without a token, or with one that is not known (`shown`). */
error unauthorised(bool shown);
/**
 * Whether `who` (null: no token was shown, or none that is known) may do `what` to a channel, queue or cache, by the tokens in force now.
 * Without tokens everything is allowed.
 */
result<> authorise(loop& home, const identity* who, right what, std::string_view name);
/** The same for what only an admin token may do. */
result<> authorise_admin(loop& home, const identity* who);

}  // namespace postbus::gateway
