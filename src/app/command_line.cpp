#include "app/command_line.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <tuple>
#include <utility>

#include "app/commands.hpp"
#include "app/config_file.hpp"
#include "app/durations.hpp"
#include "app/option_forms.hpp"
#include "app/serve.hpp"
#include "app/terminal.hpp"
#include "postbus/version.hpp"
#include "postgres/data_folder.hpp"
#include "version.hpp"

// The one source that knows CLI11: it turns words into the structs of commands.hpp and serve.hpp, and calls the command.
// What is said by a flag wins over the environment, and that over the configuration file.

namespace postbus::app {
namespace {

static_assert(version == POSTBUS_VERSION, "include/postbus/version.hpp and project(VERSION) name the same version");

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/** Those settings of the configuration file that the environment may overrule. */
struct config_targets {
  std::string database, database_direct, gateway, token;

  std::string* find(std::string_view name) {
    if (name == "db") return &database;
    if (name == "db-direct") return &database_direct;
    if (name == "url") return &gateway;
    return name == "token" ? &token : nullptr;  // no flag for it: a command line is everybody's to read
  }
};

/** CLI11's configuration files read by toml++, so that they are TOML. */
class toml_config : public CLI::Config {
public:
  toml_config(const CLI::App& app, config_targets& targets) : app_{app}, targets_{targets} {}
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    auto items = parse_config(input);
    if (!items) throw CLI::FileError{items.error().text};
    std::vector<CLI::ConfigItem> out;
    for (auto& item : *items) {
      if (auto* const target = item.tables.empty() ? targets_.find(item.name) : nullptr) {
        if (!item.is_text) refuse(item, fmt::format("`{}` is a text in quotes", item.name));
        *target = std::move(item.values.front());
        continue;
      }
      if (!knows(item))
        refuse(item,
               fmt::format("there is no setting `{}`{}; the settings are the options by their long names, those of serve below [serve]",
                           item.name, item.tables.empty() ? "" : fmt::format(" below [{}]", fmt::join(item.tables, "."))));
      out.push_back({std::move(item.tables), std::move(item.name), std::move(item.values)});
    }
    return out;
  }

private:
  bool knows(const config_item& item) const {
    const auto* at = &app_;
    for (const auto& table : item.tables) {
      const auto below = at->get_subcommands([&](const CLI::App* command) { return command->get_name() == table; });
      if (below.empty()) return false;
      at = below.front();
    }
    const auto* const option = at->get_option_no_throw("--" + item.name);
    return option != nullptr && option->get_configurable();
  }
  [[noreturn]] static void refuse(const config_item& item, std::string_view why) {
    throw CLI::FileError{fmt::format("line {} of the configuration file: {}", item.line, why)};
  }

  const CLI::App& app_;
  config_targets& targets_;
};

/** "127.0.0.1:7432", "[::1]:7432" into address and port. */
bool parse_listen(std::string_view text, serve_options& into) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return false;
  auto address = text.substr(0, colon);
  const auto port = text.substr(colon + 1);
  if (address.starts_with('[') && address.ends_with(']'))
    address = address.substr(1, address.size() - 2);
  else if (address.find(':') != std::string_view::npos)
    return false;  // an IPv6 address without brackets
  const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), into.port);
  if (ec != std::errc{} || end != port.data() + port.size() || address.empty()) return false;
  into.address = address;
  return true;
}

CLI::Validator fits(std::string (*check)(const std::string&)) {
  return {[check](std::string& text) { return check(text); }, ""};
}

/** Everything the command line can say. Lives until the command has run: the options write into it. */
struct words {
  targets at;
  config_targets config;
  setup_options setup;
  doctor_options doctor;
  post_options post;
  listen_command listen;
  wait_options wait;
  std::string wait_timeout;
  watch_options watch;
  std::vector<std::string> unwatch;
  watched_options watched;
  stream_options stream;
  status_options status;
  std::vector<std::string> psql;
  serve_options serve;
  std::string serve_listen;
  std::string serve_slot{"auto"};
  std::uint64_t serve_window{300};  // seconds
  std::string log_level{"info"};
};

CLI::App* add_command(CLI::App& app, std::string name, std::string what, std::string example) {
  auto* command = app.add_subcommand(std::move(name), std::move(what));
  command->footer("Example:\n  " + std::move(example));
  return command;
}

void add_serve(CLI::App& app, words& said) {
  auto* c = add_command(app, "serve", "Run the gateway; with no database named, on a private PostgreSQL of its own",
                        "postbus serve                                  # a private PostgreSQL, http://127.0.0.1:7432\n"
                        "  postbus --db postgresql://app@db/shop serve --tokens tokens.toml --listen 0.0.0.0:7432 --behind-proxy");
  auto* listen = c->add_option("--listen", said.serve_listen, "Address and port to listen on (127.0.0.1:7432)")->type_name("ADDR:PORT");
  c->add_option("--port", said.serve.port, "Port alone; 0 takes a free one and prints it")->check(fits(check_port))->excludes(listen);
  c->add_option("--tokens", said.serve.tokens_file, "TOML file of access tokens, read again on SIGHUP; needed beyond loopback")
      ->check(fits(check_given))
      ->type_name("FILE");
  auto* certificate =
      c->add_option("--tls-cert", said.serve.tls_certificate, "Certificate chain (PEM)")->check(fits(check_given))->type_name("FILE");
  auto* key = c->add_option("--tls-key", said.serve.tls_key, "Its private key (PEM)")->check(fits(check_given))->type_name("FILE");
  certificate->needs(key);
  key->needs(certificate);
  c->add_flag("--behind-proxy", said.serve.behind_proxy, "A proxy in front ends TLS")->excludes(certificate);
  c->add_option("--host", said.serve.hosts, "A name it answers to beside localhost; may be repeated")->type_name("NAME");
  c->add_option("--allow-origin", said.serve.allowed_origins, "Pages of this origin may use it; may be repeated")->type_name("ORIGIN");
  c->add_flag("--demo", said.serve.demo, "Load the stories and drive them");
  c->add_flag("--no-setup", said.serve.no_setup, "Never install or upgrade the schema");
  c->add_option("--data", said.at.data, "Folder of the private PostgreSQL")->type_name("DIR");
  c->add_option("--pg-bin", said.serve.pg_bin, "Where its programs are (searched for)")->type_name("DIR");
  c->add_option("--threads", said.serve.threads, "Loops; 0: one per core")->check(CLI::Range(0u, 1024u));
  c->add_flag("--log-json", said.serve.log_json, "Log one JSON object per line");
  c->add_option("--log-level", said.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->type_name("LEVEL");
  c->add_option("--history-bytes", said.serve.history_bytes, "Memory for events kept for listeners that resume (256MiB)")
      ->transform(CLI::AsSizeValue(true));
  c->add_option("--snapshot-bytes", said.serve.snapshot_bytes,
                "Room for rows of snapshots that clients have not taken yet, in memory and in $TMPDIR (4GiB)")
      ->transform(CLI::AsSizeValue(true));
  c->add_option("--slot", said.serve_slot,
                "permanent: listeners resume across restarts; temporary: they do not; auto: permanent where max_slot_wal_keep_size is set")
      ->check(CLI::IsMember({"auto", "permanent", "temporary"}))
      ->type_name("KIND");
  c->add_option("--resume-window", said.serve_window, "How long a permanent slot keeps the WAL for them (5m)")
      ->transform(CLI::AsNumberWithUnit(std::map<std::string, std::uint64_t>{{"s", 1}, {"m", 60}, {"h", 3600}}))
      ->type_name("TIME");
  c->add_option("--resume-bytes", said.serve.window.bytes, "How much of it at most (256MiB)")->transform(CLI::AsSizeValue(true));
  c->add_option("--spill-bytes", said.serve.spill.disk, "Disk under TMPDIR for large transactions under way (8GiB)")
      ->transform(CLI::AsSizeValue(true));
  c->add_option("--max-message", said.serve.max_message, "Largest payload taken (16MiB)")->transform(CLI::AsSizeValue(true));
}

void add_commands(CLI::App& app, words& said) {
  add_serve(app, said);
  auto* c = add_command(app, "setup", "Install or upgrade the schema `postbus` in the database",
                        "postbus --db postgresql://postgres@db/shop setup");
  c->add_flag("--print", said.setup.print, "Print the SQL for a DBA instead of running it");
  c->add_flag("--allow-breaking", said.setup.allow_breaking, "Also take steps that stop programs of the version before");
  c->add_flag("--revoke-emit", said.setup.revoke_emit, "Also take pg_logical_emit_message from PUBLIC, so that nobody can forge a message");

  c = add_command(app, "doctor", "Check the database and print the exact fix for each finding",
                  "postbus --db postgresql://postgres@db/shop doctor");
  c->add_flag("--json", said.doctor.json, "One JSON document");

  c = add_command(app, "post", "Post one message, or one per line of the input",
                  "postbus post orders 'hello'\n  tail -f app.log | postbus post log -");
  c->add_option("channel", said.post.channel, "Where to post")->required()->type_name("CHANNEL");
  c->add_option("payload", said.post.payload, "The message; - posts each line of the input; nothing posts an empty one")
      ->type_name("PAYLOAD|-");
  c->add_flag("--json", said.post.json, "The payload is JSON; listeners get it embedded");

  c = add_command(app, "listen", "Print the events of some channels",
                  "postbus listen orders table:public.invoices\n  postbus listen orders --json --resume orders.position >>orders.log\n"
                  "  postbus listen table:public.orders --where \"status = 'open'\" --columns id,total");
  c->add_option("channel", said.listen.channels,
                "What to listen on; of several, what is from before comes channel by channel, then all in commit order")
      ->required()
      ->type_name("CHANNEL");
  c->add_flag("--json", said.listen.json, "One JSON object per line: id, channel, kind, at, payload");
  auto* from = c->add_option("--from", said.listen.from, "Start after this position, or at the oldest event kept")
                   ->check(fits(check_given))
                   ->type_name("POSITION|beginning");
  auto* resume = c->add_option("--resume", said.listen.resume_file, "Go on where the last run with this file stopped")
                     ->check(fits(check_given))
                     ->type_name("FILE");
  auto* where =
      c->add_option("--where", said.listen.where, "Of tables: only rows that match")->check(fits(check_filter))->type_name("FILTER");
  auto* columns = c->add_option("--columns", said.listen.columns, "Of tables: only these columns")->delimiter(',')->type_name("A,B,…");
  auto* maybe = c->add_flag("--maybe", said.listen.maybe, "Of tables: take also what cannot be known for sure, marked as such");
  auto* snapshot = c->add_flag("--snapshot", said.listen.snapshot, "Of tables: the rows first, then `live`, then every change after them");
  auto* consumer = c->add_option("--consumer", said.listen.consumer, "Of streams: go on after what this consumer has printed before")
                       ->check(fits(check_consumer))
                       ->type_name("NAME");
  for (auto* const other : {from, resume, where, columns, maybe, snapshot}) consumer->excludes(other);
  c->add_option("--count", said.listen.count, "End after so many events")->check(fits(check_count))->type_name("N");

  c = add_command(app, "wait", "Wait for one message, print its payload and end", "postbus wait deployed --timeout 5m && ./smoke-test");
  c->add_option("channel", said.wait.channel, "What to wait for")->required()->type_name("CHANNEL");
  c->add_option("--timeout", said.wait_timeout, "End with status 4 after this long (for ever)")
      ->check(fits(check_duration))
      ->type_name("DURATION");
  c->add_option("--from", said.wait.from, from->get_description())->check(fits(check_given))->type_name("POSITION|beginning");
  c->add_flag("--json", said.wait.json, "The whole event as JSON");

  c = add_command(app, "watch", "Start the feed of a table's changes, on channel table:SCHEMA.TABLE, or give it other options",
                  "postbus watch orders --notify events");
  c->add_option("table", said.watch.tables, "Tables, with their schema where search_path does not have it")->required()->type_name("TABLE");
  c->add_option("--columns", said.watch.columns, "Only these columns; the key belongs to them")->delimiter(',')->type_name("A,B,…");
  c->add_option("--notify", said.watch.notify, "Also mirror the feed to this plain channel, for programs that LISTEN")
      ->check(fits(check_given))
      ->type_name("CHANNEL");
  c->add_option("--rls", said.watch.rls, "A table with row-level security: refuse, or ignore its policies")
      ->check(CLI::IsMember({"refuse", "ignore"}))
      ->type_name("refuse|ignore");

  c = add_command(app, "unwatch", "Stop the feed of a table", "postbus unwatch orders");
  c->add_option("table", said.unwatch, "Tables")->required()->type_name("TABLE");

  c = add_command(app, "watched", "List the watched tables", "postbus watched --json");
  c->add_flag("--json", said.watched.json, "One JSON object per line");

  c = add_command(app, "stream", "Keep the messages of a channel: create, list, drop",
                  "postbus stream create workerB --keep '7 days'\n  postbus stream list --json");
  c->add_option("action", said.stream.action, "What to do")
      ->required()
      ->check(CLI::IsMember({"create", "list", "drop"}))
      ->type_name("create|list|drop");
  c->add_option("channel", said.stream.channel, "The channel")->type_name("CHANNEL");
  c->add_option("--keep", said.stream.keep, "How long messages are kept (7 days)")->check(fits(check_given))->type_name("INTERVAL");
  c->add_option("--max-bytes", said.stream.max_bytes, "How many bytes of them (1GiB)")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  c->add_option("--max-count", said.stream.max_count, "How many of them (any number)")->check(fits(check_count))->type_name("N");
  c->add_flag("--json", said.stream.json, "One JSON object per line");

  c = add_command(app, "status", "Show a gateway's channels, listeners, lag and slot", "postbus status --json | jq .lag_ms");
  c->add_flag("--json", said.status.json, "The gateway's own JSON document");

  c = add_command(app, "psql", "Open psql on the database in use", "postbus psql -- -c 'select postbus.position()'");
  c->add_option("arguments", said.psql, "Given to psql; put -- before them")->type_name("ARGUMENT");
}

/** The first of its arguments that says something, and which it was. */
std::pair<std::string, int> first_of(std::initializer_list<std::string> choices) {
  int rank = 0;
  for (const auto& choice : choices) {
    if (!choice.empty()) return {choice, rank};
    ++rank;
  }
  return {{}, rank};
}

/** Fills in what no flag has said. */
void complete(words& said) {
  auto& at = said.at;
  const auto database = environment("POSTBUS_DB").empty() ? environment("DATABASE_URL") : environment("POSTBUS_DB");
  int database_rank = 0, gateway_rank = 0;
  std::tie(at.database, database_rank) = first_of({at.database, database, said.config.database});
  std::tie(at.gateway, gateway_rank) = first_of({at.gateway, environment("POSTBUS_URL"), said.config.gateway});
  at.gateway_first = gateway_rank < database_rank;
  at.database_direct = first_of({at.database_direct, said.config.database_direct}).first;
  at.token = first_of({environment("POSTBUS_TOKEN"), said.config.token}).first;
  at.data =
      std::filesystem::absolute(at.data.empty() ? postgres::default_data_folder() : std::filesystem::path{at.data}).lexically_normal();
}

log::level level_of(std::string_view word) {
  if (word == "debug") return log::level::debug;
  if (word == "warning") return log::level::warning;
  if (word == "error") return log::level::error;
  return log::level::info;
}

changes::slot_choice slot_of(std::string_view word) {
  if (word == "permanent") return changes::slot_choice::permanent;
  if (word == "temporary") return changes::slot_choice::temporary;
  return changes::slot_choice::automatic;
}

int run_serve(words& said) {
  auto& options = said.serve;
  options.database = said.at.database;
  options.database_direct = said.at.database_direct.empty() ? said.at.database : said.at.database_direct;
  options.data = said.at.data;
  options.log_level = level_of(said.log_level);
  options.slot = slot_of(said.serve_slot);
  options.window.age = std::chrono::seconds{said.serve_window};
  if (!said.serve_listen.empty() && !parse_listen(said.serve_listen, options))
    return tell(exit_usage,
                fmt::format("--listen {}: it looks like 127.0.0.1:7432 or [::1]:7432, and a port is at most 65535", said.serve_listen));
  return serve(options);
}

int run_command(std::string_view name, words& said) {
  if (name == "serve") return run_serve(said);
  log::configure(log::level::warning, false);
  if (name == "setup") return setup(said.at, said.setup);
  if (name == "doctor") return doctor(said.at, said.doctor);
  if (name == "post") {
    said.post.lines = said.post.payload == "-";
    return post(said.at, said.post);
  }
  if (name == "listen") return listen(said.at, said.listen);
  if (name == "wait") {
    if (!said.wait_timeout.empty()) said.wait.timeout = parse_duration(said.wait_timeout);
    return wait(said.at, said.wait);
  }
  if (name == "watch") return watch(said.at, said.watch);
  if (name == "unwatch") return unwatch(said.at, said.unwatch);
  if (name == "stream") return stream(said.at, said.stream);
  if (name == "watched") return watched(said.at, said.watched);
  if (name == "status") return status(said.at, said.status);
  return psql(said.at, said.psql);
}

/** What a command line that makes no sense is answered. */
std::string explain(const CLI::App& app, const CLI::ParseError& wrong) {
  const auto& commands = app.get_subcommands();
  const auto left = app.remaining(true);
  const auto unknown = left.empty() ? std::string{} : visible(left.front());
  const bool is_option = unknown.starts_with('-');
  if (commands.empty())  // CLI11 says that a command is missing, where it did not know the one that was given
    return fmt::format("{}\nTry `postbus --help`.", unknown.empty()
                                                        ? std::string{wrong.what()}
                                                        : fmt::format("there is no {} '{}'", is_option ? "option" : "command", unknown));
  const auto name = commands.front()->get_name();
  std::string what = wrong.what();
  if (is_option && wrong.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    what = fmt::format("`postbus {}` has no option '{}'", name, unknown);
    if (name == "post") what += fmt::format("; a payload that begins with - stands behind --: postbus post CHANNEL -- '{}'", unknown);
  }
  return fmt::format("{}\nTry `postbus {} --help`.", what, name);
}

}  // namespace

int run(int argc, char** argv) {
  words said;
  CLI::App app{"Postbus turns the PostgreSQL you already run into a message broker.", "postbus"};
  app.require_subcommand(1);
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->label("Subcommands", "Commands");
  app.fallthrough();  // global options may follow the command
  app.set_version_flag("--version", fmt::format("postbus {} (schema {})", version, schema_version));
  app.option_defaults()->configurable(true);
  app.add_option("--db", said.at.database, "The database, as a URL or in libpq's keyword form (POSTBUS_DB, DATABASE_URL)")
      ->type_name("URL");
  app.add_option("--db-direct", said.at.database_direct, "The same past a transaction pooler, for replication and LISTEN")
      ->type_name("URL");
  app.add_option("--url", said.at.gateway, "A gateway (POSTBUS_URL); its token comes from POSTBUS_TOKEN")->type_name("URL");
  app.add_option("--ca-file", said.at.ca_file, "Certificates to trust for https (PEM)")->check(fits(check_given))->type_name("FILE");
  app.add_option("--data", said.at.data, "Data folder of the serve to attach to when nothing is named")->type_name("DIR");
  app.set_config("--config", "", "TOML file: these options by their long names, those of serve below [serve], and token")
      ->check([](const std::string& path) {
        return std::filesystem::is_regular_file(path) ? std::string{} : fmt::format("there is no file {}", path);
      })
      ->type_name("FILE");
  app.config_formatter(std::make_shared<toml_config>(app, said.config));
  app.allow_config_extras(false);
  app.footer(
      "`postbus COMMAND --help` shows a command's options and an example.\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage, 3 nothing to attach to, 4 timed out.");
  add_commands(app, said);
  try {
    app.parse(argc, argv);
    complete(said);
    return run_command(app.get_subcommands().front()->get_name(), said);
  } catch (const CLI::Success& asked) {
    return app.exit(asked);  // --help, --version
  } catch (const CLI::FileError& wrong) {
    return tell(exit_usage, wrong.what());
  } catch (const CLI::ParseError& wrong) {
    return tell(exit_usage, explain(app, wrong));
  } catch (const std::invalid_argument& wrong) {
    return tell(exit_usage, wrong.what());
  }
}

}  // namespace postbus::app
