#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

namespace bench {

/** Called with the marker's number and the time at which the bytes were in hand. */
using received = std::function<void(std::uint64_t number, std::int64_t at_ns)>;

/** What a receiver listens to; each run_* below calls `ready` once nothing later can be missed and returns when `stop` is set. */
struct receiver_options {
  std::string database;   ///< libpq connection string
  std::string gateway;    ///< ADDRESS:PORT
  std::string path;       ///< of the WebSocket
  std::string channel;    ///< to LISTEN on
};

/** A WebSocket client of the gateway. */
void run_websocket(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready,
                   const received& found);
/** The least a replication client can be: COPY BOTH of a temporary pgoutput slot with messages; bytes are searched, not decoded. */
void run_replication(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready,
                     const received& found);
/** The manual's LISTEN loop: poll, PQconsumeInput, PQnotifies. */
void run_listen(const receiver_options& options, const std::atomic<bool>& stop, const std::function<void()>& ready, const received& found);

}  // namespace bench
