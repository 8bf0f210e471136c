#include <fmt/format.h>

#include <array>

#include "app/commands.hpp"
#include "app/database_session.hpp"
#include "app/terminal.hpp"
#include "bus/channel.hpp"
#include "postgres/server_error.hpp"

namespace postbus::app {
namespace {

int list(database_session& session, const stream_options& options) {
  const auto rows = session.run("statements/cli/streams.sql");
  if (!rows) return tell(rows.error());
  if (options.json) {
    for (std::size_t row = 0; row < rows->size(); ++row) fmt::print("{}\n", rows->text(row, rows->columns() - 1));
    return exit_ok;
  }
  if (rows->size() == 0) {
    fmt::print(stderr, "no channel keeps its messages; `postbus stream create CHANNEL` makes one do so\n");
    return exit_ok;
  }
  const terminal on{stdout};
  table out{{{"stream"}, {"messages", table::align::right}, {"size", table::align::right}, {"keeps"}, {"oldest"}, {"state"}}};
  for (std::size_t row = 0; row < rows->size(); ++row) {
    const auto text = [&](std::size_t column) { return std::string{rows->text(row, column)}; };
    out.add({{visible(text(0)), style::name},
             {text(1)},
             {text(2)},
             {text(3)},
             {text(4)},
             {text(5), text(5) == "within its bounds" ? style::good : style::warn}});
  }
  fmt::print("{}", out.text(on));
  return exit_ok;
}

}  // namespace

int stream(const targets& at, const stream_options& options) {
  const bool create = options.action == "create";
  const bool bounded = !options.keep.empty() || !options.max_bytes.empty() || !options.max_count.empty();
  if ((options.action == "list") != options.channel.empty())
    return tell(exit_usage,
                options.channel.empty() ? "name the channel: postbus stream " + options.action + " CHANNEL" : "list takes no channel");
  if (bounded && !create) return tell(exit_usage, "--keep, --max-bytes and --max-count belong to `postbus stream create`");
  if (options.json && options.action != "list")
    return tell(exit_usage, "--json belongs to `postbus stream list`: nothing else prints data");
  if (bus::is_reserved(options.channel))
    return tell(exit_usage,
                "names that begin with table:, task:, cache: or postbus: are Postbus's own and no streams: name another channel");
  if (!options.channel.empty())
    if (const auto named = bus::check_channel(options.channel); !named) return tell(named.error());
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  auto session = database_session::open_checked(*database);
  if (!session) return tell(session.error());
  if (options.action == "list") return list(*session, options);
  const auto given = [](const std::string& text) { return text.empty() ? postgres::parameter{} : postgres::parameter{text}; };
  const std::array<postgres::parameter, 4> bounds{options.channel, given(options.keep), given(options.max_bytes), given(options.max_count)};
  const auto done =
      session->run(create ? "statements/cli/create_stream.sql" : "statements/cli/drop_stream.sql", std::span{bounds}.first(create ? 4 : 1));
  if (!done) {
    const auto why = done.error();
    const auto state = postgres::sqlstate(why);
    if (state == "22007" || state == "22008" || state == "22015")
      return tell(exit_usage, fmt::format("--keep {}: it is a length of time, such as '7 days' or '12 hours'", visible(options.keep)));
    return tell(why);
  }
  fmt::print(stderr, "{} {}\n", visible(options.channel), create ? "keeps its messages" : "no longer keeps messages");
  return exit_ok;
}

}  // namespace postbus::app
