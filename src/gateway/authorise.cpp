#include "gateway/authorise.hpp"

#include "base/metrics.hpp"
#include "gateway/session.hpp"

namespace postbus::gateway {
namespace {

constexpr std::string_view no_token =
    "this needs a token: send `Authorization: Bearer TOKEN`, or ?access_token=TOKEN where headers cannot be set";

error denied(error why) {
  metrics::add(metrics::counter::requests_denied);
  return why;
}

}  // namespace

bool permits(loop& home, const identity* who, right what, std::string_view name) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return true;
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  return mine != nullptr && mine->may(what, name);
}

result<> authorise(loop& home, const identity* who, right what, std::string_view name) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return {};
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  if (mine == nullptr) return denied({errc::unauthorised, std::string{no_token}});
  if (mine->may(what, name)) return {};
  constexpr std::string_view words[] = {"listen to", "post to", "work on", "read"};
  return denied(
      {errc::forbidden, "this token may not " + std::string{words[static_cast<std::size_t>(what)]} + " '" + std::string{name} + "'"});
}

result<> authorise_admin(loop& home, const identity* who) {
  const auto tokens = home.shared().tokens.load();
  if (!tokens) return {};
  const auto* const mine = who == nullptr ? nullptr : tokens->find(who->digest);
  if (mine == nullptr) return denied({errc::unauthorised, std::string{no_token}});
  if (!mine->admin) return denied({errc::forbidden, "this needs a token with admin = true"});
  return {};
}

}  // namespace postbus::gateway
