#include "support/pooler.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <thread>

#include "postgres/child_process.hpp"
#include "postgres/data_folder.hpp"

namespace postbus::testing_support {
namespace {

constexpr const char* program = "/usr/sbin/pgbouncer";

}  // namespace

struct pooler::impl {
  temporary_folder folder;
  std::optional<postgres::child_process> process;
};

bool pooler::is_there() { return ::access(program, X_OK) == 0; }

pooler::pooler(const database& db) : impl_{std::make_unique<impl>()} {
  const auto& server = db.on().server();
  const auto& folder = impl_->folder.path();
  const auto user = ::geteuid() == 0 ? std::optional{*postgres::find_user("postgres")} : std::nullopt;
  const auto port = postgres::find_free_port();
  std::ofstream{folder + "/ini"} << fmt::format(
      "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = "
      "plain\nauth_file = {}/users\npool_mode = transaction\ndefault_pool_size = 1\n",
      server.sockets().string(), server.port(), port, folder);
  std::ofstream{folder + "/users"} << fmt::format("\"postgres\" \"{}\"\n", server.password());
  auto started = postgres::child_process::spawn({.arguments = {program, folder + "/ini"}, .user = user});
  if (!started) throw std::runtime_error{started.error().text};
  impl_->process.emplace(std::move(*started));
  for (int attempt = 0; attempt < 1000 && postgres::is_port_free(port); ++attempt)
    std::this_thread::sleep_for(std::chrono::milliseconds{5});
  url_ = fmt::format("postgresql://postgres:{}@127.0.0.1:{}/{}", server.password(), port, db.name());
}

pooler::~pooler() { impl_->process->signal(SIGKILL); }

}  // namespace postbus::testing_support
