#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "postgres/connection.hpp"
#include "postgres/pgoutput.hpp"
#include "postgres/stream_pulse.hpp"

namespace postbus::postgres {

/** What LSNs of a server are worth: they can be compared only within one system, timeline and database. */
struct system_identity {
  std::string system_identifier;
  std::uint32_t timeline{};
  std::string database;
  std::string instance;  ///< which run of the server it is, and which database, as instance.sql says
};

struct stream_options {
  std::string conninfo;  ///< a direct session; a transaction pooler cannot carry it
  std::string application_name{"postbus"};
  std::string publication{"postbus"};
  steady::duration deadline{std::chrono::seconds{10}};       ///< of the connection and of each command
  steady::duration slot_deadline{std::chrono::seconds{60}};  ///< of the slot's creation, which waits for running writers
  stream_pulse::timing pulse{};
  bool in_blocks{true};  ///< large transactions come while they run; else everything comes at its commit, however large
  std::uint32_t decoding_kib{
      64 * 1024};  ///< what the server holds of transactions under way before it streams the largest (logical_decoding_work_mem)
};

/**
 * A replication session on a logical slot of pgoutput: committed transactions in commit order, from the moment the slot
 * exists. Large ones come in blocks while they still run (protocol version 2). A temporary slot dies with the session; a
 * permanent one stays, and keeps the WAL that was not acknowledged. Owned by one coroutine; its executor only. After a
 * failure of any call the stream is over: open another.
 * Source: PostgreSQL manual, "Streaming Replication Protocol".
 */
class replication_stream {
public:
  /** Connects as a walsender's client and learns what server it is. errc::forbidden: the role may not replicate. */
  static asio::awaitable<result<replication_stream>> open(stream_options options);
  enum class lifetime { session, permanent };
  /** Makes a slot; `name` is [a-z0-9_]+, at most 63 bytes. Waits until every transaction that writes at this moment has ended (errc::timed_out). */
  asio::awaitable<result<>> create_slot(std::string name, lifetime l);
  /** Copies a permanent slot that another session reads: a slot of this session's, acknowledged where that one is. In place of create_slot. */
  asio::awaitable<result<>> copy_slot(std::string_view from, std::string name);
  /** Reads a slot that exists and was acknowledged up to there. In place of create_slot. */
  void use_slot(std::string name, std::uint64_t acknowledged);
  /** Before `start`, after the above: begin at `lsn` where that is later. What was acknowledged stays. */
  void skip_to(std::uint64_t lsn) { start_lsn_ = applied_ = std::max(start_lsn_, lsn); }
  /** Starts the flow from start_lsn(). errc::unsupported: no such publication, no logical WAL. */
  asio::awaitable<result<>> start();

  const system_identity& identity() const { return identity_; }
  /** Everything that commits after this LSN will come; valid once there is a slot. */
  std::uint64_t start_lsn() const { return start_lsn_; }
  const std::string& slot() const { return slot_; }
  int server_version() const { return session_.server_version(); }
  /** The server's process that serves this session. */
  int backend_pid() const { return session_.backend_pid(); }

  /** The next frame that is already here, without waiting; valid until the next call. */
  result<std::optional<pgoutput::frame>> next();
  /**
   * Sends feedback and questions that are due, then waits for more, at most for `longest`. Returns early or for nothing
   * now and then. errc::timed_out: the server is silent although it was asked.
   */
  asio::awaitable<result<>> wait(steady::duration longest);
  /** As `wait`, for a caller that does not read at the moment: speaks, and forgives the silence that is the caller's own. */
  asio::awaitable<result<>> keep_alive();
  /** Everything that ends at or before `applied` is done, and of what ends at or before `acknowledged` the server may forget the WAL. Told with the next feedback. */
  void applied(std::uint64_t applied, std::uint64_t acknowledged) {
    applied_ = std::max(applied_, applied);
    acknowledged_ = std::max(acknowledged_, acknowledged);
  }
  /** Makes a wait in progress return. */
  void wake() { session_.wake(); }
  void close() { session_.close(); }

private:
  replication_stream(connection session, stream_options options);
  asio::awaitable<result<>> speak(stream_pulse::action what);

  connection session_;
  stream_options options_;
  system_identity identity_;
  std::string slot_;
  std::uint64_t start_lsn_{};
  std::uint64_t applied_{}, acknowledged_{};
  stream_pulse pulse_;
};

/** "16/B374D848" to a number; nullopt when it is not an LSN. */
std::optional<std::uint64_t> parse_lsn(std::string_view text);

}  // namespace postbus::postgres
