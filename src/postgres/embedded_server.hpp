#pragma once
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::postgres {

struct embedded_options {
  std::filesystem::path data{};      ///< empty: default_data_folder()
  std::filesystem::path binaries{};  ///< --pg-bin: where `postgres` and `initdb` are; empty: searched for
  std::uint16_t port{};              ///< TCP port on 127.0.0.1; 0: a free one, kept over restarts
  std::vector<std::pair<std::string, std::string>> settings{};  ///< postgresql.conf settings beside our own
  std::string run_as{"postgres"};    ///< the system user of the server's processes when we are root
  steady::duration start_deadline{std::chrono::seconds{60}};  ///< crash recovery included
  steady::duration stop_deadline{std::chrono::seconds{30}};   ///< of a fast shutdown; then immediate, then kill
};

/** When to start a server that died again: 0.1 s, doubling to 5 s, anew after a minute of health. Holds no clock. */
class restart_delay {
public:
  /** The wait after a run that lasted `lived`. */
  steady::duration after(steady::duration lived);

private:
  steady::duration next_{std::chrono::milliseconds{100}};
};

/**
 * A private PostgreSQL in a data folder: made by initdb when new, started, supervised and stopped with its owner.
 *
 * One thread of its own is the parent of the server (the kernel ends the server when that thread ends, so a killed
 * gateway leaves no orphan); it waits on a pidfd, restarts a server that died, with back-off, and keeps its messages in
 * postgres.log. start() and stop() block; the rest does not and may be called from any thread.
 * The URL names the unix socket; `psql` on TCP uses 127.0.0.1 and port() with the same password.
 */
class embedded_server {
public:
  /** Returns once the server accepts sessions and the database `postbus` exists. On failure nothing is left running or half made. */
  static result<embedded_server> start(embedded_options options);

  embedded_server(embedded_server&&) noexcept;
  embedded_server& operator=(embedded_server&&) noexcept;
  ~embedded_server();  ///< stops it

  /** postgresql:// with the password: never show it. */
  const std::string& url() const;
  const std::filesystem::path& folder() const;
  const std::filesystem::path& sockets() const;
  const std::string& password() const;
  std::uint16_t port() const;
  int major() const;

  /** The postmaster's pid, -1 while there is none. */
  pid_t pid() const;
  /** True while the server accepts sessions, as far as the supervisor knows. */
  bool ready() const;
  /** How often the server was started again after it died. */
  unsigned restarts() const;

  /** Tells other commands how to reach this serve (attach.json). */
  result<> publish(const std::string& gateway);
  /** Fast shutdown and start again; returns when it accepts sessions, or has been stopped. For tests and for settings that need it. */
  result<> restart();
  /** Fast shutdown; returns when the server has ended. Called by the destructor. */
  void stop();

private:
  struct impl;
  explicit embedded_server(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus::postgres
