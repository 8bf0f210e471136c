#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bus/hub.hpp"
#include "postgres/pool.hpp"
#include "streams/page.hpp"
#include "streams/recorder.hpp"

namespace postbus::streams {

/** Reads what streams keep, for listeners that come back. No transaction outlives a page. Its executor only. */
class store {
public:
  struct settings {
    std::string conninfo;  ///< may pass a transaction pooler
    std::size_t page_messages{10'000};
    std::size_t page_bytes{1u << 20};  ///< of payload; a larger message has a page of its own
  };
  /** `written` and `h` must outlive it. */
  store(boost::asio::any_io_executor executor, settings given, recorder& written, const bus::hub& h);

  /** The messages after `from`, which is a position of this epoch or from_beginning; at most `most` of them. errc::not_found: no stream. */
  boost::asio::awaitable<result<page>> read(std::string channel, bus::start from, std::size_t most = SIZE_MAX);
  /** Where a named consumer goes on: after what it has acknowledged, or from the beginning. errc::not_found: no stream. */
  boost::asio::awaitable<result<bus::start>> consumer_start(std::string channel, std::string consumer);
  /** Remembers it; errors as for_client() makes them of what postbus.ack refuses. */
  boost::asio::awaitable<result<>> ack(std::string channel, std::string consumer, std::string position);
  void close() { sessions_.close(); }

private:
  struct written_runs {
    bus::position complete;  ///< nothing up to there is missing
    bus::position after;  ///< where the reader stands; LSN 0: before the first message
    postgres::rows runs;  ///< as page.sql says them
  };
  boost::asio::awaitable<result<bus::position>> readable();
  boost::asio::awaitable<result<written_runs>> runs_after(std::string_view channel, bus::start from, std::size_t most);
  boost::asio::awaitable<result<postgres::rows>> ask(std::string_view statement, std::span<const postgres::parameter> parameters);

  settings settings_;
  recorder& recorder_;
  const bus::hub& hub_;
  postgres::pool sessions_;
};

}  // namespace postbus::streams
