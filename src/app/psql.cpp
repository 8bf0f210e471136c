#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "app/commands.hpp"
#include "postgres/conninfo_parts.hpp"
#include "postgres/data_folder.hpp"

namespace postbus::app {

int psql(const targets& at, const std::vector<std::string>& arguments) {
  const auto database = database_of(at);
  if (!database) return tell_unattached(database.error());
  auto parts = postgres::parse_conninfo(*database);
  if (!parts) return tell(exit_usage, parts.error().text);
  // The password goes by the environment: a command line is everybody's to read.
  std::erase_if(*parts, [](const auto& part) { return part.first == "password" && ::setenv("PGPASSWORD", part.second.c_str(), 1) == 0; });

  std::vector<std::string> words{"psql", "--dbname", postgres::format_conninfo(*parts)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  ::execvp("psql", argv.data());
  const int reason = errno;
  for (const auto& found : postgres::find_server_binaries()) ::execv((found.folder / "psql").c_str(), argv.data());
  return tell(exit_failed, fmt::format("cannot run psql ({}): install it with `apt-get install postgresql-client`", std::strerror(reason)));
}

}  // namespace postbus::app
