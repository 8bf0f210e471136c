#include <fmt/format.h>

#include "app/commands.hpp"
#include "app/database_session.hpp"
#include "app/terminal.hpp"
#include "postgres/migrations.hpp"

namespace postbus::app {
namespace {

/** A migration may build something over the user's own data: it is given time, but not for ever. */
constexpr std::chrono::minutes setup_patience{10};

}  // namespace

int setup(const targets& at, const setup_options& options) {
  // Without a database, --print shows what a new one would get.
  if (options.print && at.database.empty()) {
    fmt::print("{}", postgres::print_setup());
    if (options.revoke_emit) fmt::print("{}", postgres::revoke_emit_sql());
    return exit_ok;
  }
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  auto session = database_session::open(*database);
  if (!session) return tell(session.error());

  if (options.print) {
    const auto state =
        session->await<result<postgres::schema_state>>([](postgres::connection& on) { return postgres::read_schema(on, setup_patience); });
    if (!state) return tell(state.error());
    if (state->version > postgres::schema_version()) return tell(postgres::check_schema(*state).error());
    fmt::print("{}", postgres::print_setup(state->version));
    if (options.revoke_emit) fmt::print("{}", postgres::revoke_emit_sql());
    return exit_ok;
  }

  using applied = result<std::vector<postgres::migration>>;
  const auto done =
      session->await<applied>([&](postgres::connection& on) { return postgres::migrate(on, options.allow_breaking, setup_patience); });
  if (!done) return tell(done.error());
  const terminal on{stderr};
  for (const auto& step : *done) fmt::print(stderr, "{} {}\n", on.paint(style::good, "applied"), step.name);
  fmt::print(stderr, "the schema is at version {}{}\n", postgres::schema_version(), done->empty() ? "; there was nothing to do" : "");
  if (options.revoke_emit) {
    const auto revoked = session->await<result<postgres::rows>>(
        [](postgres::connection& to) { return to.execute(postgres::revoke_emit_sql(), setup_patience); });
    if (!revoked) return tell(revoked.error());
    fmt::print(stderr, "pg_logical_emit_message is no longer PUBLIC's\n");
  }
  return exit_ok;
}

}  // namespace postbus::app
