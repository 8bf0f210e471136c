#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/targets.hpp"

/** What each command was told, and the command. Every one returns the program's exit status (exit_code.hpp). */
namespace postbus::app {

struct setup_options {
  bool print{};        ///< show the SQL instead of running it
  bool allow_breaking{};  ///< also take steps that programs of the version before do not survive
  bool revoke_emit{};  ///< also take pg_logical_emit_message from PUBLIC
};
int setup(const targets& at, const setup_options& options);

struct doctor_options {
  bool json{};
};
int doctor(const targets& at, const doctor_options& options);

struct post_options {
  std::string channel;
  std::string payload;
  bool lines{};  ///< the payload was "-": one message per line of stdin
  bool json{};   ///< payloads are JSON values
};
int post(const targets& at, const post_options& options);

struct listen_command {
  std::vector<std::string> channels;
  std::string from;
  std::string resume_file;
  std::string where;
  std::vector<std::string> columns;
  bool maybe{};
  bool snapshot{};
  std::string consumer;
  std::optional<std::uint64_t> count;
  bool json{};
};
int listen(const targets& at, const listen_command& options);

struct wait_options {
  std::string channel;
  std::string from;
  std::optional<std::chrono::milliseconds> timeout;
  bool json{};
};
int wait(const targets& at, const wait_options& options);

struct watch_options {
  std::vector<std::string> tables;
  std::vector<std::string> columns;  ///< empty: all
  std::string notify;                ///< plain channel to mirror the feed to; empty: none
  std::string rls{"refuse"};
};
int watch(const targets& at, const watch_options& options);
int unwatch(const targets& at, const std::vector<std::string>& tables);

struct watched_options {
  bool json{};
};
int watched(const targets& at, const watched_options& options);

struct stream_options {
  std::string action;  ///< create, list or drop
  std::string channel;
  std::string keep, max_bytes, max_count;  ///< empty: what the schema takes by itself
  bool json{};
};
int stream(const targets& at, const stream_options& options);

struct status_options {
  bool json{};
};
int status(const targets& at, const status_options& options);

/** Becomes psql; returns only when that fails. */
int psql(const targets& at, const std::vector<std::string>& arguments);

}  // namespace postbus::app
