#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bus/hub.hpp"
#include "changes/reader.hpp"
#include "feeds/spool.hpp"
#include "feeds/view.hpp"

namespace postbus::feeds {

/**
 * Takes snapshots of watched tables for subscribers who want the rows before the changes. Each is one transaction, one cursor
 * and one spool, shared by all who ask for the same while it is filled and shortly after.
 *
 * Thread: the executor's, which must be the reader's; `under_way` any. `h` and `r` must outlive it, and so must it all
 * readers it gave out.
 */
class snapshots {
public:
  struct settings {
    std::string conninfo;                    ///< of the primary, not through a transaction pooler
    std::size_t bytes = std::size_t{4} << 30;  ///< all spools together, in memory and on disk
    std::size_t memory = 8u << 20;           ///< of one spool
    unsigned at_once = 4;                    ///< transactions; others wait in line
    steady::duration patience{std::chrono::seconds{30}};  ///< in line, and for writers that must end first
    steady::duration deadline{std::chrono::minutes{15}};  ///< of a whole fill
    steady::duration shared_for{std::chrono::seconds{1}};  ///< after the rows are complete
  };
  /** `spawn` starts a coroutine on the executor; it must have ended before this is destroyed. */
  using spawner = std::function<void(std::string_view name, boost::asio::awaitable<void>)>;
  snapshots(boost::asio::any_io_executor executor, settings given, bus::hub& h, changes::reader& r, spawner spawn);
  ~snapshots();

  /**
   * The rows of the feed `channel` (`table:SCHEMA.NAME`), or those and as much of them as `shown` shows of it where that is
   * not null: returns when they begin to come. errc::not_watched; errc::conflict:
   * the role may not read the table, with the GRANT; errc::unavailable: come back, with what is waited for; errc::too_large.
   */
  boost::asio::awaitable<result<std::unique_ptr<spool_reader>>> open(std::string channel, std::shared_ptr<const view> shown);
  /** Ends all that is under way soon. */
  void stop();

  struct progress {
    std::string channel;  ///< of the feed
    std::string filter;   ///< empty: every row
    std::uint64_t rows{};
    std::int64_t estimated{-1};  ///< as pg_class.reltuples; -1: not known
    int readers{};
    bool complete{};
  };
  std::vector<progress> under_way() const;

private:
  struct one;
  boost::asio::awaitable<void> fill(std::shared_ptr<one> o);
  boost::asio::awaitable<result<>> wait_in_line(one& o);
  boost::asio::awaitable<result<>> take(one& o);
  boost::asio::awaitable<result<>> outwait_writers(one& o, postgres::connection& session, const std::string& id, steady::time_point until);
  boost::asio::awaitable<result<>> begin(one& o, postgres::connection& session, const std::string& table, const std::string& id);
  boost::asio::awaitable<result<>> copy(one& o, postgres::connection& session, class copied_rows& rows);
  boost::asio::awaitable<result<>> join(one& o, postgres::connection& session);
  void forget(const one& o);

  boost::asio::any_io_executor executor_;
  settings settings_;
  bus::hub& hub_;
  changes::reader& reader_;
  spawner spawn_;
  spool_space space_;
  unsigned running_{};
  bool stopped_{};
  std::set<std::string, std::less<>> settled_;  ///< tables, by id and watching, whose every running writer began with the feed
  struct refusal {
    error why;
    steady::time_point until;
  };
  std::map<std::string, refusal, std::less<>> too_large_;  ///< by channel: not copied in vain again and again
  boost::asio::steady_timer line_;  ///< cancelled when a place is free, or at the end

  mutable std::mutex guard_;  // of current_ (written on the executor only)
  std::map<std::string, std::shared_ptr<one>, std::less<>> current_;  ///< by channel
};

}  // namespace postbus::feeds
