#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "changes/resume_window.hpp"
#include "changes/slot_plan.hpp"
#include "changes/streamed.hpp"

namespace postbus::app {

/** Everything `postbus serve` was told, resolved from flags, environment and configuration file. */
struct serve_options {
  std::string database;         ///< libpq URL or keyword form; empty: the embedded PostgreSQL under `data`
  std::string database_direct;  ///< for the sessions that cannot pass a pooler; never empty when `database` is not
  std::string data;             ///< folder of the embedded PostgreSQL and of the attach file; absolute, never empty
  std::string pg_bin;           ///< where the embedded PostgreSQL's programs are; empty: searched for

  std::string address{"127.0.0.1"};  ///< literal IPv4 or IPv6 address, without brackets
  std::uint16_t port{7432};          ///< 0: any free port, printed once bound

  std::string tokens_file;      ///< empty: no tokens, loopback only
  std::string tls_certificate;  ///< PEM chain; given together with tls_key or not at all
  std::string tls_key;
  bool behind_proxy{};          ///< TLS ends before us: a public address is allowed without it

  std::vector<std::string> hosts;            ///< names the gateway answers to, beside the loopback ones
  std::vector<std::string> allowed_origins;  ///< pages of these may use it

  bool demo{};                  ///< load and drive the stories
  bool no_setup{};              ///< never migrate the schema
  unsigned threads{};           ///< loops; 0: one per core

  log::level log_level{log::level::info};
  bool log_json{};
  std::size_t snapshot_bytes{std::size_t{4} << 30};  ///< rows of snapshots that clients have not taken yet
  std::size_t history_bytes{256u << 20};  ///< events kept in memory for listeners that resume
  changes::slot_choice slot{changes::slot_choice::automatic};
  changes::resume_window::bounds window{};  ///< how far back listeners can resume after a restart
  changes::spill_limits spill{};
  std::size_t max_message{16u << 20};    ///< largest payload taken, bytes
};

/** Runs the gateway until SIGINT or SIGTERM has drained it; the exit status of the program. Errors are told on stderr with the fix. */
int serve(const serve_options& options);

}  // namespace postbus::app
