#include "support/cluster.hpp"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "base/log.hpp"
#include "postgres/connection.hpp"
#include "postgres/migrations.hpp"

namespace postbus::testing_support {
namespace {

std::string text_of(const PGresult* result) {
  std::string out;
  for (int row = 0; row < ::PQntuples(result); ++row) {
    if (row) out += '\n';
    for (int column = 0; column < ::PQnfields(result); ++column) {
      if (column) out += '|';
      out += ::PQgetvalue(result, row, column);
    }
  }
  return out;
}

refusal refusal_of(const PGresult* result) {
  const auto field = [&](int code) {
    const char* text = ::PQresultErrorField(result, code);
    return std::string{text ? text : ""};
  };
  const auto status = ::PQresultStatus(result);
  if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY) return {};
  return {field(PG_DIAG_SQLSTATE), field(PG_DIAG_MESSAGE_PRIMARY), field(PG_DIAG_MESSAGE_DETAIL), field(PG_DIAG_MESSAGE_HINT)};
}

}  // namespace

temporary_folder::temporary_folder() {
  char name[] = "/tmp/postbus-test-XXXXXX";
  if (!::mkdtemp(name) || ::chmod(name, 0711) != 0) throw std::runtime_error{"no temporary folder"};
  path_ = name;
}

temporary_folder::~temporary_folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

namespace {

/**
 * PostgreSQL's programs for the version matrix: POSTBUS_TEST_POSTGRES, or nothing. As root the server runs as another user, who
 * may not be able to walk to where npm put them: then a copy that he can reach, for as long as this process lives.
 */
std::filesystem::path chosen_binaries() {
  namespace fs = std::filesystem;
  const char* const given = std::getenv("POSTBUS_TEST_POSTGRES");
  if (given == nullptr) return {};
  const fs::path asked{given};
  bool reachable = true;
  for (auto folder = asked; ::geteuid() == 0 && folder.has_relative_path(); folder = folder.parent_path())
    reachable &= (fs::status(folder).permissions() & fs::perms::others_exec) != fs::perms::none;
  if (reachable) return asked;
  static const temporary_folder copy;
  const auto programs = fs::path{copy.path()} / "native";
  if (!fs::exists(programs)) fs::copy(asked.parent_path(), programs, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  return programs / asked.filename();
}

}  // namespace

cluster& cluster::shared() {
  static cluster one;
  return one;
}

cluster::cluster(settings extra) : folder_{std::make_unique<temporary_folder>()} {
  log::configure(log::level::warning, false);
  auto started =
      postgres::embedded_server::start({.data = folder_->path() + "/data", .binaries = chosen_binaries(), .settings = std::move(extra)});
  if (!started) throw std::runtime_error{started.error().text + "\n" + started.error().detail};
  server_ = std::make_unique<postgres::embedded_server>(std::move(*started));
}

cluster::~cluster() = default;

std::string cluster::url(std::string_view database) const {
  const auto& full = server_->url();
  return full.substr(0, full.rfind('/') + 1) + std::string{database};
}

std::string cluster::url_as(std::string_view role, std::string_view password, std::string_view database) const {
  return fmt::format("postgresql://{}:{}@127.0.0.1:{}/{}", role, password, server_->port(), database);
}

std::string cluster::psql(std::string_view sql, std::string_view database) const { return session{url(database)}.psql(sql); }

void cluster::restart() {
  const auto done = server_->restart();
  if (!done) throw std::runtime_error{done.error().text};
}

void cluster::kill_postmaster() {
  const auto before = server_->restarts();
  ::kill(server_->pid(), SIGKILL);
  for (int attempt = 0; attempt < 6000; ++attempt) {
    if (server_->restarts() != before && server_->ready()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
  }
  throw std::runtime_error{"the killed server did not come back"};
}

namespace {

asio::awaitable<result<std::vector<postgres::migration>>> install_schema(std::string url) {
  auto session = co_await postgres::connection::open({.conninfo = std::move(url)});
  if (!session) co_return session.error();
  auto done = co_await postgres::migrate(*session, true, std::chrono::seconds{60});
  co_return done;
}

}  // namespace

std::string cluster::schema_template() {
  if (!has_template_) {
    psql("create database with_schema");
    const auto done = run(install_schema(url("with_schema")));
    if (!done) throw std::runtime_error{done.error().text + "\n" + done.error().detail};
    has_template_ = true;
  }
  return "with_schema";
}

database::database(cluster& on, with what) : on_{on} {
  static std::atomic<int> count{0};
  name_ = fmt::format("test_{}", ++count);
  on_.psql(fmt::format("create database {} template {}", name_, what == with::schema ? on_.schema_template() : "template1"));
}

database::~database() {
  try {
    on_.psql(fmt::format("drop database if exists {} with (force)", name_));
  } catch (const std::exception&) {
    // A test that broke the server on purpose: the whole cluster goes away with the process.
    name_.clear();
  }
}

refusal database::refused(std::string_view sql, std::string_view url) const {
  return session{url.empty() ? this->url() : std::string{url}}.refused(sql);
}

session::session(const std::string& url) : connection_{::PQconnectdb(url.c_str())} {
  auto* made = static_cast<PGconn*>(connection_);
  if (::PQstatus(made) != CONNECTION_OK) {
    const std::string why = ::PQerrorMessage(made);
    ::PQfinish(made);
    throw std::runtime_error{why};
  }
  ::PQsetNoticeProcessor(made, [](void* to, const char* text) { *static_cast<std::string*>(to) += text; }, &notices_);
}

session::~session() { ::PQfinish(static_cast<PGconn*>(connection_)); }

std::string session::psql(std::string_view sql) {
  PGresult* result = ::PQexec(static_cast<PGconn*>(connection_), std::string{sql}.c_str());
  auto said = text_of(result);
  const auto wrong = refusal_of(result);
  ::PQclear(result);
  if (!wrong.state.empty() || !wrong.message.empty())
    throw std::runtime_error{fmt::format("{}: {}\n{}\n{}\nin: {}", wrong.state, wrong.message, wrong.detail, wrong.hint, sql)};
  return said;
}

refusal session::refused(std::string_view sql) {
  PGresult* result = ::PQexec(static_cast<PGconn*>(connection_), std::string{sql}.c_str());
  auto wrong = refusal_of(result);
  ::PQclear(result);
  return wrong;
}

std::string session::notifications() {
  psql("select 1");  // what was committed before this statement is delivered with its answer
  std::string all;
  while (PGnotify* one = ::PQnotifies(static_cast<PGconn*>(connection_))) {
    all += fmt::format("{} {}\n", one->relname, one->extra);
    ::PQfreemem(one);
  }
  return all;
}

std::string session::notices() { return std::exchange(notices_, {}); }

absent_standby::absent_standby(cluster& on) : on_{on} {
  on.psql("alter system set synchronous_standby_names = 'nobody'");
  on.psql("select pg_reload_conf()");
  // Sessions see the setting before commits wait: the checkpointer has them wait when it has seen it as well.
  session probe{on.url()};
  const auto pid = probe.psql("select pg_backend_pid()");
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds{20};
  std::atomic<bool> over{};
  std::thread committing{[&] {
    while (!over) probe.refused("select pg_logical_emit_message(true, 'other', '')");
  }};
  const auto waits = [&] { return on.psql("select wait_event = 'SyncRep' from pg_stat_activity where pid = " + pid) == "t"; };
  bool waiting = false;
  while (!(waiting = waits()) && std::chrono::steady_clock::now() < limit) {
  }
  over = true;
  on.psql("select pg_cancel_backend(" + pid + ")");  // it waits no longer, and is committed
  committing.join();
  if (waiting) return;
  forget();
  throw std::runtime_error{"no commit waits for the standby"};
}

void absent_standby::forget() const {
  on_.psql("alter system reset synchronous_standby_names");
  on_.psql("select pg_reload_conf()");
}

}  // namespace postbus::testing_support
