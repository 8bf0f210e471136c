// From the command line to a running gateway, in the order in which things can fail: what was asked for, the port, the
// database, its schema. Only then does anything start, and it ends in the opposite order.

#include "app/serve.hpp"

#include <sys/resource.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>

#include "app/database_side.hpp"
#include "app/demo.hpp"
#include "base/log.hpp"
#include "bus/hub.hpp"
#include "embedded_sql.hpp"
#include "gateway/gateway.hpp"
#include "postgres/backoff.hpp"
#include "postgres/embedded_server.hpp"
#include "postgres/migrations.hpp"
#include "version.hpp"

namespace postbus::app {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;

/** How long a database that cannot be reached is waited for at the start. */
constexpr auto database_patience = 30s;
/** How long an answer that may be another in a moment is asked for again, before the gateway starts without it. */
constexpr auto tier_patience = 5s;
constexpr auto statement_deadline = 10s;
constexpr auto migration_deadline = 5min;

/** Runs one coroutine to its end on a loop of its own: for what must be done before the gateway's loops start. */
template <class T>
T run_now(asio::awaitable<T> work) {
  asio::io_context context{1};
  std::optional<T> outcome;
  std::exception_ptr failure;
  asio::co_spawn(context, std::move(work), [&](std::exception_ptr e, T value) {
    failure = e;
    outcome.emplace(std::move(value));
  });
  context.run();
  if (failure) std::rethrow_exception(failure);
  return std::move(*outcome);
}

result<> check_exposure(const serve_options& options) {
  if (options.tls_certificate.empty() != options.tls_key.empty())
    return error{errc::invalid_argument, "--tls-cert and --tls-key go together"};
  if (options.address == "127.0.0.1" || options.address.starts_with("127.") || options.address == "::1") return {};
  if (options.tokens_file.empty())
    return error{errc::invalid_argument,
                 "listening on " + options.address + " needs --tokens FILE: without tokens the gateway answers on the loopback only"};
  if (options.tls_certificate.empty() && !options.behind_proxy)
    return error{errc::invalid_argument,
                 "listening on " + options.address + " needs --tls-cert and --tls-key, or --behind-proxy where a proxy ends TLS"};
  return {};
}

/** Every client is a descriptor: take as many as the system gives. */
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    log::warning("serve", "cannot raise the limit on open files; connections end at {}", limit.rlim_cur);
}

/** Brings the schema up to date where it is not: a role that only runs gateways need not be able to install it. */
asio::awaitable<result<>> prepare_schema(postgres::connection& session, bool no_setup) {
  const auto state = co_await postgres::read_schema(session, statement_deadline);
  if (state && (no_setup || state->pending.empty())) co_return postgres::check_schema(*state);
  if (!state && no_setup) co_return state.error();
  const auto applied = co_await postgres::migrate(session, false, migration_deadline);
  if (!applied) co_return applied.error();
  for (const auto& step : *applied) log::info("serve", "applied migration {}", step.name);
  co_return result<>{};
}

/** Opens the first session, waiting for a database that is not up yet. */
asio::awaitable<result<postgres::connection>> first_session(const std::string& conninfo) {
  postgres::backoff retry{std::random_device{}()};
  const auto give_up = steady::now() + database_patience;
  for (;;) {
    auto opened = co_await postgres::connection::open({.conninfo = conninfo, .application_name = "postbus serve"});
    if (opened || opened.error().code != errc::unavailable || steady::now() >= give_up) co_return opened;
    log::warning("serve", "{}; trying again", opened.error().text);
    asio::steady_timer pause{co_await asio::this_coro::executor, retry.next()};
    co_await pause.async_wait(asio::use_awaitable);
  }
}

/**
 * Finds out how messages can travel. A trouble that may pass (the server is just starting, every WAL sender is in use) is
 * asked about again for a while; one that stays leaves the transport as it was, and tier_watch goes on asking.
 */
asio::awaitable<result<postgres::tier>> decide_tier(postgres::connection& session, const database_options& options) {
  postgres::backoff retry{std::random_device{}()};
  const auto give_up = steady::now() + tier_patience;
  bool told = false;
  for (;;) {
    const auto facts = co_await postgres::probe_transport(session, options.conninfo, options.conninfo_direct, statement_deadline);
    const bool late = steady::now() >= give_up;
    if (!facts && (late || facts.error().code != errc::unavailable)) co_return facts.error();
    if (facts && facts->in_recovery)
      co_return error{errc::unsupported, "this database is a standby, which takes no posts and no LISTEN: give the primary's address"};
    auto tier = facts ? postgres::choose_tier(*facts) : postgres::tier{.reason = facts.error().text, .fix = "", .certain = false};
    if (tier.certain || late) co_return tier;
    if (!std::exchange(told, true)) log::warning("serve", "it is not sure yet how messages can travel: {}; asking again", tier.reason);
    asio::steady_timer pause{co_await asio::this_coro::executor, retry.next()};
    co_await pause.async_wait(asio::use_awaitable);
    if (session.is_open()) continue;
    auto again = co_await first_session(options.conninfo);
    if (!again) co_return again.error();
    session = std::move(*again);
  }
}

asio::awaitable<result<database_options>> prepare_database(database_options options, bool no_setup) {
  auto session = co_await first_session(options.conninfo);
  if (!session) co_return session.error();
  auto schema = co_await prepare_schema(*session, no_setup);
  if (!schema) co_return schema.error();
  auto tier = co_await decide_tier(*session, options);
  if (!tier) co_return tier.error();
  options.tier = std::move(*tier);

  const postgres::parameter transport[] = {postgres::name(options.tier.transport)};
  const auto changed = co_await session->query(embedded_sql::find("statements/use_transport.sql"), transport, statement_deadline);
  if (!changed) co_return changed.error();
  if (options.tier.transport == postgres::tier::kind::notify) {
    const auto start = co_await session->query(embedded_sql::find("statements/notify_start.sql"), {}, statement_deadline);
    if (!start) co_return start.error();
    options.epoch = static_cast<std::uint32_t>(std::stoull(std::string{start->text(0, 0)}));
    options.lsn = std::stoull(std::string{start->text(0, 1)});
  }
  co_return options;
}

/** Says where the gateway is as soon as events flow, or why they do not. */
asio::awaitable<void> announce(const database_side& database, std::string url, bool demo, postgres::tier tier) {
  asio::steady_timer pause{co_await asio::this_coro::executor};
  const auto soon = steady::now() + (tier.certain ? 10s : 0s);
  while (!database.ready() && steady::now() < soon) {
    pause.expires_after(20ms);
    co_await pause.async_wait(asio::use_awaitable);
  }
  if (!database.ready()) log::warning("serve", "not ready yet: {}", database.problem());
  std::fprintf(stdout, "Postbus %s is at %s\n", std::string{version}.c_str(), url.c_str());
  if (demo) std::fprintf(stdout, "Open it in a browser: the orders there change live.\n");
  if (tier.transport == postgres::tier::kind::notify)
    std::fprintf(stdout,
                 "Messages travel by NOTIFY, without table feeds, because %s.\n  To change that: %s\n  and then restart the gateway.\n",
                 tier.reason.c_str(), tier.fix.c_str());
  std::fflush(stdout);
}

struct signal_watch {
  signal_watch(gateway::server& s, const serve_options& o) : server{s}, options{o}, signals{s.executor(), SIGINT, SIGTERM, SIGHUP} {}
  void wait() {
    signals.async_wait([this](boost::system::error_code failed, int signal) {
      if (failed) return;
      if (signal == SIGHUP)
        reload();
      else
        stop();
      wait();
    });
  }
  void stop() {
    if (stopping) std::_Exit(1);  // asked twice: at once
    stopping = true;
    log::info("serve", "draining: clients are told to come back");
    server.stop();
  }
  void reload() {
    if (!options.tokens_file.empty()) {
      if (auto tokens = gateway::token_set::load(options.tokens_file)) {
        server.replace_tokens(*tokens);
        log::info("serve", "the tokens file was read again: {} tokens", (*tokens)->tokens().size());
      } else {
        log::error("serve", "the old tokens stay in force: {}", tokens.error().text);
      }
    }
    if (!options.tls_certificate.empty()) {
      if (auto tls = gateway::tls_context::load(options.tls_certificate, options.tls_key))
        server.replace_tls(*tls);
      else
        log::error("serve", "the old certificate stays in force: {}", tls.error().text);
    }
  }
  gateway::server& server;
  const serve_options& options;
  asio::signal_set signals;
  bool stopping{};
};

result<> run(const serve_options& options) {
  if (auto safe = check_exposure(options); !safe) return safe;
  gateway::gateway_options asked;
  asked.address = options.address;
  asked.port = options.port;
  asked.threads = options.threads != 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  asked.limits.max_message = options.max_message;
  asked.limits.max_lag = std::max(asked.limits.max_lag, options.max_message);
  asked.version = version;
  asked.demo = options.demo;
  if (!options.tokens_file.empty()) {
    auto tokens = gateway::token_set::load(options.tokens_file);
    if (!tokens) return error{errc::io, tokens.error().text, tokens.error().detail};  // a file that is wrong is no wrong command line
    asked.tokens = *tokens;
    asked.origins.tokens = true;
  }
  if (!options.tls_certificate.empty()) {
    auto tls = gateway::tls_context::load(options.tls_certificate, options.tls_key);
    if (!tls) return error{errc::io, tls.error().text, tls.error().detail};
    asked.tls = *tls;
  }
  using scheme = gateway::origin_policy::scheme;
  asked.origins.seen_as = asked.tls ? scheme::https : options.behind_proxy ? scheme::any : scheme::http;
  asked.origins.hosts = options.hosts;
  asked.origins.allowed_origins = options.allowed_origins;
  if (auto sane = gateway::check_policy(asked.origins); !sane) return sane;
  raise_descriptor_limit();

  bus::hub hub{{.history_bytes = options.history_bytes}};
  database_side database{hub};
  gateway::server server{hub, database, std::move(asked)};
  if (auto open = server.listen(); !open) return open;
  const auto host = options.address.find(':') == std::string::npos ? options.address : "[" + options.address + "]";
  const auto url = (options.tls_certificate.empty() ? "http://" : "https://") + host + ":" + std::to_string(server.port());

  std::optional<postgres::embedded_server> embedded;
  database_options where;
  where.conninfo = options.database;
  where.conninfo_direct = options.database_direct;
  where.slot = options.slot;
  where.snapshot_bytes = options.snapshot_bytes;
  where.window = options.window;
  where.spill = options.spill;
  if (options.database.empty()) {
    auto started = postgres::embedded_server::start({.data = options.data, .binaries = options.pg_bin});
    if (!started) return started.error();
    embedded = std::move(*started);
    where.conninfo = where.conninfo_direct = embedded->url();
  }
  auto prepared = run_now(prepare_database(std::move(where), options.no_setup));
  if (!prepared) return prepared.error();
  const auto tier = prepared->tier;
  const auto conninfo = prepared->conninfo;
  if (tier.transport == postgres::tier::kind::notify)
    log::warning("serve", "messages travel by NOTIFY and tables cannot be watched, because {}; to change that: {}", tier.reason, tier.fix);
  else if (!tier.certain)
    log::warning("serve", "the WAL cannot be read yet, because {}; to change that: {}", tier.reason, tier.fix);

  signal_watch signals{server, options};
  signals.wait();
  database.start(server.executor(), std::move(*prepared));
  const auto ignore = [](const std::exception_ptr& failure) {
    if (failure) log::error("serve", "a task of serve's own failed");
  };
  asio::co_spawn(server.executor(), announce(database, url, options.demo, tier), ignore);
  if (options.demo) asio::co_spawn(server.executor(), demo({.conninfo = conninfo}), ignore);
  if (embedded)
    if (auto published = embedded->publish(url); !published) return published;

  server.run();
  boost::system::error_code ignored;
  signals.signals.cancel(ignored);
  database.stop();
  server.finish([&] { return database.stopped(); }, 3s);
  if (!database.stopped()) {
    // Something of the database side hangs and may still use what would be destroyed now.
    log::warning("serve", "the database side did not end in time; leaving without it");
    if (embedded) embedded->stop();
    std::_Exit(0);
  }
  database.close();
  log::info("serve", "stopped");
  return {};
}

}  // namespace

int serve(const serve_options& options) {
  log::configure(options.log_level, options.log_json);
  const auto ended = run(options);
  if (ended) return 0;
  std::fprintf(stderr, "postbus serve: %s\n", ended.error().text.c_str());
  if (!ended.error().detail.empty()) std::fprintf(stderr, "  (%s)\n", ended.error().detail.c_str());
  return ended.error().code == errc::invalid_argument ? 2 : 1;
}

}  // namespace postbus::app
