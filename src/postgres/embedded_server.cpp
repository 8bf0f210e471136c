// The embedded PostgreSQL: the life of one server.
//
// 1. The data folder is locked (data_folder.cpp). From here on no other `serve` touches it.
// 2. A postmaster that an earlier serve left behind (only if that serve was killed in the instant between fork and
//    prctl, or the kernel refused prctl) is found through postmaster.pid and /proc and shut down.
// 3. No cluster yet: initdb works in postgres.new, which is renamed when whole. An interrupted initdb leaves nothing
//    that looks like a cluster.
// 4. Our settings go to postgres/postbus.conf, included by postgresql.conf: ALTER SYSTEM still wins. Address, port and
//    socket folder go on the command line: they must be what we tell others.
// 5. The supervisor thread starts the postmaster, reads its messages, and knows it is ready when postmaster.pid says
//    so. It restarts it whenever it ends, unless it was asked to stop.
// 6. Stop: SIGINT (fast shutdown: sessions are ended, a checkpoint is written), past its deadline SIGQUIT (immediate:
//    recovery at the next start), then SIGKILL.
//
// What is not promised: the server's death is noticed at once, but sessions find out by their own sockets.
#include "postgres/embedded_server.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "base/log.hpp"
#include "postgres/child_process.hpp"
#include "postgres/data_folder.hpp"
#include "postgres/server_leftover.hpp"
#include "postgres/server_order.hpp"
#include "postgres/server_words.hpp"

namespace postbus::postgres {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
namespace {

constexpr std::size_t remembered_output = 8192;

/** What a cluster of ours is set to; ALTER SYSTEM overrides. */
constexpr std::pair<const char*, const char*> own_settings[] = {
    {"search_path", "public"},  // the role is named postbus: the default's "$user" would put its tables into our schema
    {"wal_level", "logical"},        {"max_slot_wal_keep_size", "1GB"},  // a slot left behind can never fill the disk
    {"max_replication_slots", "16"}, {"max_wal_senders", "16"},         {"log_line_prefix", "'%m [%p] %q%u@%d '"},
};

std::string quoted_setting(std::string_view value) {
  if (value.starts_with('\'')) return std::string{value};
  std::string out = "'";
  for (const char c : value) out += c == '\'' ? std::string{"''"} : std::string{c};
  return out + "'";
}

}  // namespace

steady::duration restart_delay::after(steady::duration lived) {
  if (lived >= 60s) next_ = 100ms;
  return std::exchange(next_, std::min<steady::duration>(next_ * 2, 5s));
}

struct embedded_server::impl {
  embedded_options options;
  std::optional<system_user> user;
  server_binaries binaries;
  data_folder folder;
  std::string password;
  std::string url;
  std::uint16_t port{};

  std::atomic<pid_t> pid{-1};
  std::atomic<bool> ready{false};
  std::atomic<unsigned> restarts{0};

  server_order order;
  int wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::thread supervisor;
  std::mutex lock;
  std::condition_variable changed;
  std::optional<result<>> first_start;  // guarded by lock
  unsigned starts{};                    // guarded by lock: how often it became ready

  impl(embedded_options o, data_folder f) : options{std::move(o)}, folder{std::move(f)} {}
  ~impl() { ::close(wake); }

  result<> create_cluster();
  result<> configure();
  result<> create_database();
  std::optional<error> run_once(bool first, steady::duration& lived);
  void supervise();
  void wake_up() {
    const std::uint64_t one = 1;
    if (::write(wake, &one, sizeof one) < 0) log::error("postgres", "the supervisor cannot be woken");
  }
  void clear_wake() const {
    std::uint64_t count;
    while (::read(wake, &count, sizeof count) > 0) {
    }
  }
  void set_ready(bool now) {
    const std::lock_guard guard{lock};
    ready = now;
    if (now) {
      ++starts;
      if (!first_start) first_start.emplace();
    }
    changed.notify_all();
  }
};

result<> embedded_server::impl::create_cluster() {
  const auto fresh = folder.path() / "postgres.new";
  std::error_code fault;
  fs::remove_all(fresh, fault);
  if (::mkdir(fresh.c_str(), 0700) != 0 || (user && ::lchown(fresh.c_str(), user->uid, user->gid) != 0))
    return error{errc::io, fmt::format("could not create '{}'", fresh.string()), std::strerror(errno)};
  log::info("postgres", "creating a PostgreSQL {} cluster in {}", binaries.major, folder.path().string());
  std::vector<std::string> arguments{(binaries.folder / "initdb").string(),
                                     "--pgdata=" + fresh.string(),
                                     "--username=postgres",
                                     "--pwfile=/proc/self/fd/3",
                                     "--auth=scram-sha-256",
                                     "--encoding=UTF8"};
  // Comparison by code point everywhere: the same order on every system, and no index breaks when glibc is upgraded.
  if (binaries.major >= 17) {
    arguments.insert(arguments.end(), {"--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"});
  } else {
    const auto utf8 = ::newlocale(LC_ALL_MASK, "C.UTF-8", nullptr);
    arguments.emplace_back(utf8 ? "--locale=C.UTF-8" : "--locale=C");
    if (utf8) ::freelocale(utf8);
  }
  const auto done = run_process({.arguments = arguments, .user = user, .passed_file = password + "\n"}, 5min);
  if (!done || !done->ok()) {
    fs::remove_all(fresh, fault);
    if (!done) return done.error();
    return explain("initdb failed", folder.path(), done->output, 0);
  }
  auto conf = std::ifstream{fresh / "postgresql.conf"};
  std::ostringstream text;
  text << conf.rdbuf() << "\n# Written at every start of postbus; ALTER SYSTEM overrides it.\ninclude_if_exists = 'postbus.conf'\n";
  const auto written = write_file_as(user, (fresh / "postgresql.conf").string(), text.str(), 0600);
  if (!written) return written;
  fs::rename(fresh, folder.cluster(), fault);
  if (fault) return error{errc::io, fmt::format("could not rename '{}'", fresh.string()), fault.message()};
  return {};
}

result<> embedded_server::impl::configure() {
  std::string text = "# Written by postbus at every start. Change a setting with ALTER SYSTEM.\n";
  for (const auto& [name, value] : own_settings) text += fmt::format("{} = {}\n", name, quoted_setting(value));
  for (const auto& [name, value] : options.settings) text += fmt::format("{} = {}\n", name, quoted_setting(value));
  auto written = write_file_as(user, (folder.cluster() / "postbus.conf").string(), text, 0600);
  if (!written && user)
    written.error().text += fmt::format(
        "; the user {} must be able to enter every folder above it (is one of them closed, as /root is?): "
        "choose another folder with --data DIR",
        user->name);
  return written;
}

// The role is not called postbus: with the default search_path ("$user", public) its tables would go to the schema postbus.
/** The database of our own, so that `postgres` stays for administration. */
result<> embedded_server::impl::create_database() {
  const auto sockets = folder.sockets().string(), number = fmt::format("{}", port);
  const char* keys[] = {"host", "port", "user", "password", "dbname", "connect_timeout", "options", nullptr};
  const char* values[] = {
      sockets.c_str(), number.c_str(), "postgres", password.c_str(), "postgres", "10", "-c search_path=pg_catalog,pg_temp", nullptr};
  PGconn* session = ::PQconnectdbParams(keys, values, 0);
  result<> outcome;
  if (::PQstatus(session) != CONNECTION_OK) {
    outcome = error{errc::unavailable,
                    "the embedded server refuses its own password; was it changed? put the old one back, or write the new one "
                    "into the data folder's file 'password'",
                    ::PQerrorMessage(session)};
  } else {
    PGresult* found = ::PQexec(session, "select from pg_database where datname = 'postbus'");
    if (::PQntuples(found) == 0) {
      PGresult* made = ::PQexec(session, "create database postbus");
      if (::PQresultStatus(made) != PGRES_COMMAND_OK)
        outcome = error{errc::database, "could not create the database 'postbus'", ::PQerrorMessage(session)};
      ::PQclear(made);
    }
    ::PQclear(found);
  }
  ::PQfinish(session);
  return outcome;
}

/** Runs the postmaster until it ends; nullopt when it ended as asked. */
std::optional<error> embedded_server::impl::run_once(bool first, steady::duration& lived) {
  const auto begun = steady::now();
  message_log messages{folder.log()};
  auto child = child_process::spawn(
      {.arguments = {(binaries.folder / "postgres").string(), "-D", folder.cluster().string(), "-c", "listen_addresses=127.0.0.1", "-c",
                     fmt::format("port={}", port), "-c", fmt::format("unix_socket_directories={}", folder.sockets().string()), "-c",
                     "unix_socket_permissions=0700"},
       .user = user,
       .working_folder = folder.cluster().string(),
       .death_signal = SIGINT});
  if (!child) return child.error();
  pid = child->pid();
  std::string output, piece;
  std::optional<steady::time_point> next_signal;
  int signal = SIGINT;
  bool timed_out = false;
  std::optional<int> status;
  while (!(status = child->ended())) {
    const auto now = steady::now();
    if (!ready && !next_signal) {
      const auto state = read_pid_file(folder.cluster());
      if (state.pid == child->pid() && state.ready) set_ready(true);
      if (!ready && first && now - begun > options.start_deadline) timed_out = true;
    }
    if ((order.given() || timed_out) && !next_signal) next_signal = now;
    if (next_signal && now >= *next_signal) {
      child->signal(signal);
      signal = signal == SIGINT ? SIGQUIT : SIGKILL;
      next_signal = now + options.stop_deadline;
      if (ready) set_ready(false);
    }
    const auto wait = next_signal ? std::chrono::ceil<std::chrono::milliseconds>(*next_signal - now) : ready ? -1ms : 5ms;
    pollfd waited[] = {{child->pidfd(), POLLIN, 0}, {child->output(), POLLIN, 0}, {wake, POLLIN, 0}};
    ::poll(waited, 3, static_cast<int>(wait.count()));
    clear_wake();
    child->read_output(piece);
    messages.append(piece);
    output += std::exchange(piece, {});
    if (output.size() > 2 * remembered_output) output.erase(0, output.size() - remembered_output);
  }
  child->read_output(piece);
  messages.append(piece);
  output += piece;
  pid = -1;
  set_ready(false);
  lived = steady::now() - begun;
  if (timed_out)
    return error{errc::timed_out,
                 fmt::format("PostgreSQL did not become ready within {} s; its messages are in '{}'",
                             std::chrono::duration_cast<std::chrono::seconds>(options.start_deadline).count(), folder.log().string()),
                 causes(output)};
  if (order.given()) return std::nullopt;
  return explain(fmt::format("PostgreSQL ended with {}", describe_status(*status)), folder.path(), output, port);
}

void embedded_server::impl::supervise() {
  restart_delay delay;
  for (bool first = true;; first = false) {
    steady::duration lived{};
    const auto failed = run_once(first, lived);
    if (order.take_restart()) continue;
    if (order.stopped()) return;
    {
      const std::lock_guard guard{lock};
      if (!first_start) {
        first_start.emplace(*failed);
        changed.notify_all();
        return;
      }
    }
    const auto wait = delay.after(lived);
    log::error("postgres", "{}{}{}; starting it again in {} ms", failed->text, failed->detail.empty() ? "" : ": ", failed->detail,
               std::chrono::duration_cast<std::chrono::milliseconds>(wait).count());
    ++restarts;
    pollfd waited{wake, POLLIN, 0};
    ::poll(&waited, 1, static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(wait).count()));
    clear_wake();
    order.take_restart();
    if (order.stopped()) return;
  }
}

result<embedded_server> embedded_server::start(embedded_options options) {
  if (options.data.empty()) options.data = default_data_folder();
  std::optional<system_user> user;
  if (::geteuid() == 0) {
    const auto found = find_user(options.run_as);
    if (!found)
      return error{errc::unsupported,
                   fmt::format("PostgreSQL refuses to run as root and there is no user '{}' to run it as: install PostgreSQL "
                               "(apt-get install postgresql), or start postbus as an ordinary user",
                               options.run_as)};
    user = *found;
  }
  const auto installed = find_server_binaries(options.binaries);
  if (installed.empty())
    return error{errc::unsupported,
                 options.binaries.empty()
                     ? std::string{"no PostgreSQL server is installed: apt-get install postgresql, or name its programs' folder with "
                                   "--pg-bin DIR, or use a database you have with --db URL"}
                     : fmt::format("there are no PostgreSQL server programs (postgres, initdb) in '{}': correct --pg-bin DIR",
                                   options.binaries.string())};
  auto folder = data_folder::open(options.data, user);
  if (!folder) return folder.error();

  auto made = std::make_unique<impl>(std::move(options), std::move(*folder));
  made->user = user;
  const auto wanted_major = made->folder.cluster_major();
  const auto fitting = std::ranges::find_if(installed, [&](const auto& b) { return b.major == wanted_major.value_or(b.major); });
  if (fitting == installed.end())
    return error{
        errc::unsupported,
        fmt::format(
            "the data folder '{}' was made by PostgreSQL {}, but only PostgreSQL {} is installed: install postgresql-{} (or name its "
            "programs with --pg-bin DIR), upgrade the folder with pg_upgrade, or start a new one with --data DIR",
            made->folder.path().string(), *wanted_major, installed.front().major, *wanted_major)};
  made->binaries = *fitting;
  if (made->binaries.major < 14)
    return error{errc::unsupported, fmt::format("PostgreSQL {} is too old: Postbus needs 14 or later", made->binaries.major)};
  auto password = made->folder.password();
  if (!password) return password.error();
  made->password = *password;
  if (!wanted_major) {
    const auto created = made->create_cluster();
    if (!created) return created.error();
  }
  const auto stopped = stop_leftover(made->folder.cluster(), made->options.stop_deadline);
  if (!stopped) return stopped.error();
  const auto configured = made->configure();
  if (!configured) return configured.error();

  const auto asked = made->options.port;
  if (asked && !is_port_free(asked))
    return error{errc::conflict, fmt::format("port {} of 127.0.0.1 is in use by another program; stop it or choose another port", asked)};
  made->port = asked ? asked : made->folder.saved_port().value_or(0);
  if (!made->port || !is_port_free(made->port)) made->port = find_free_port();
  const auto saved = made->folder.save_port(made->port);
  if (!saved) return saved.error();

  auto& running = *made;
  running.supervisor = std::thread{[&running] { running.supervise(); }};
  embedded_server server{std::move(made)};
  std::unique_lock guard{running.lock};
  running.changed.wait(guard, [&] { return running.first_start.has_value(); });
  const auto outcome = *running.first_start;
  guard.unlock();
  if (!outcome) return outcome.error();
  const auto database = running.create_database();
  if (!database) return database.error();
  std::string host;
  for (const char c : running.folder.sockets().string())
    host += std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'
                ? std::string{c}
                : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  running.url = fmt::format("postgresql://postgres:{}@{}:{}/postbus", running.password, host, running.port);
  log::info("postgres", "PostgreSQL {} runs in {} on 127.0.0.1:{}", running.binaries.major, running.folder.path().string(), running.port);
  return server;
}

embedded_server::embedded_server(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
embedded_server::embedded_server(embedded_server&&) noexcept = default;
embedded_server& embedded_server::operator=(embedded_server&&) noexcept = default;
embedded_server::~embedded_server() {
  if (impl_) stop();
}

void embedded_server::stop() {
  if (!impl_->supervisor.joinable()) return;
  impl_->order.stop();
  impl_->wake_up();
  impl_->supervisor.join();
  impl_->set_ready(false);  // whoever waits for a restart looks
}

result<> embedded_server::restart() {
  std::unique_lock guard{impl_->lock};
  const auto before = impl_->starts;
  impl_->order.restart();
  impl_->wake_up();
  const auto patience = impl_->options.start_deadline + impl_->options.stop_deadline;
  if (!impl_->changed.wait_for(guard, patience, [&] { return impl_->order.stopped() || (impl_->starts != before && impl_->ready); }))
    return error{errc::timed_out,
                 fmt::format("PostgreSQL did not come back in time; its messages are in '{}'", impl_->folder.log().string())};
  if (impl_->order.stopped()) return error{errc::unavailable, "PostgreSQL was stopped meanwhile"};
  return {};
}

result<> embedded_server::publish(const std::string& gateway) {
  return impl_->folder.write_attachment({.url = impl_->url, .gateway = gateway, .pid = ::getpid()});
}

const std::string& embedded_server::url() const { return impl_->url; }
const fs::path& embedded_server::folder() const { return impl_->folder.path(); }
const fs::path& embedded_server::sockets() const { return impl_->folder.sockets(); }
const std::string& embedded_server::password() const { return impl_->password; }
std::uint16_t embedded_server::port() const { return impl_->port; }
int embedded_server::major() const { return impl_->binaries.major; }
pid_t embedded_server::pid() const { return impl_->pid; }
bool embedded_server::ready() const { return impl_->ready; }
unsigned embedded_server::restarts() const { return impl_->restarts; }

}  // namespace postbus::postgres
