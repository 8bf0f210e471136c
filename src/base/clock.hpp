#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace postbus {

/** A moment of wall time in microseconds since 1970-01-01 UTC: what events and WAL records carry. */
using unix_micros = std::int64_t;

/** The wall clock. */
unix_micros now_micros();

/** PostgreSQL counts microseconds from 2000-01-01; this many lie between the two epochs. */
inline constexpr std::int64_t postgres_epoch_micros = 946'684'800'000'000;

/** Appends RFC 3339 in UTC with six digits of fraction: 2026-11-22T02:11:43.000123Z. */
void append_rfc3339(std::string& out, unix_micros time);

using steady = std::chrono::steady_clock;

}  // namespace postbus
