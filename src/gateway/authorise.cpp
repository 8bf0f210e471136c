#include "gateway/authorise.hpp"

#include <algorithm>

#include "base/ascii.hpp"
#include "base/metrics.hpp"
#include "feeds/feed_name.hpp"
#include "gateway/session.hpp"

namespace postbus::gateway {
namespace {

constexpr std::string_view no_token =
    "this needs a token: send `Authorization: Bearer TOKEN`, or ?access_token=TOKEN where headers cannot be set";

constexpr std::string_view other_token = "this gateway does not know the token: it is wrong, or was revoked";

error denied(error why) {
  metrics::add(metrics::counter::requests_denied);
  return why;
}

}  // namespace

error unauthorised(bool shown) { return {errc::unauthorised, std::string{shown ? other_token : no_token}}; }

bool permits(loop& home, const identity* who, right what, std::string_view name) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return true;
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  return mine != nullptr && mine->may(what, name);
}

std::string feed_named(std::string_view table) {
  return std::string{feeds::feed_prefix} + (table.contains('.') ? "" : "public.") + std::string{table};
}

bool may_name_table(loop& home, const identity* who, std::string_view table) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return true;
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  if (mine == nullptr || !mine->may_some(right::listen, feeds::feed_prefix)) return false;
  // Without a schema, or with parts in quotes, only the database knows; else it is the name, or the name as SQL folds it.
  if (!table.contains('.') || table.find_first_of("\" \t\n\r\f\v") != table.npos) return true;
  auto folded = feed_named(table);
  std::ranges::transform(folded, folded.begin(), ascii_lower);
  return mine->may(right::listen, feed_named(table)) || mine->may(right::listen, folded);
}

result<> authorise(loop& home, const identity* who, right what, std::string_view name) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return {};
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  if (mine == nullptr) return denied(unauthorised(who != nullptr));
  if (mine->may(what, name)) return {};
  constexpr std::string_view words[] = {"listen to", "post to", "work on", "read"};
  return denied(
      {errc::forbidden, "this token may not " + std::string{words[static_cast<std::size_t>(what)]} + " '" + std::string{name} + "'"});
}

result<> authorise_admin(loop& home, const identity* who) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return {};
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  if (mine == nullptr) return denied(unauthorised(who != nullptr));
  if (!mine->admin) return denied({errc::forbidden, "this needs a token with admin = true"});
  return {};
}

}  // namespace postbus::gateway
