#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "bus/hub.hpp"
#include "changes/reader.hpp"
#include "feeds/mirror.hpp"
#include "feeds/snapshots.hpp"
#include "feeds/table_feeds.hpp"
#include "gateway/backend.hpp"
#include "postgres/listener.hpp"
#include "postgres/pool.hpp"
#include "postgres/poster.hpp"
#include "postgres/probe.hpp"

namespace postbus::app {

struct database_options {
  std::string conninfo;         ///< for ordinary statements; may pass a transaction pooler
  std::string conninfo_direct;  ///< for replication, LISTEN and the mirror's lock; may not
  postgres::tier tier;          ///< how messages travel
  changes::slot_choice slot{changes::slot_choice::temporary};
  changes::resume_window::bounds window{};
  changes::spill_limits spill{};
  std::size_t snapshot_bytes = std::size_t{4} << 30;  ///< rows of snapshots that clients have not taken yet
  std::uint32_t epoch{};        ///< NOTIFY tier only: the WAL reader claims its own
  std::uint64_t lsn{};          ///< NOTIFY tier only: where positions begin
};

/**
 * Everything that `serve` does with the database: posts, the listening session, the reader of the WAL with its feeds, the
 * mirror. Lives on one executor (loop 0's); the backend's calls may come from any loop.
 */
class database_side final : public gateway::backend {
public:
  /** Nothing happens before start(). */
  explicit database_side(bus::hub& hub);
  ~database_side() override;

  /** Starts everything on `executor`. */
  void start(boost::asio::any_io_executor executor, database_options options);
  /** Ends it; what is under way ends soon after, on the executor. */
  void stop();
  /** Everything has ended after stop(). The executor's thread. */
  bool stopped() const { return under_way_ == 0; }
  /** Closes its sessions. After stopped(), and before the executor's context goes. */
  void close();

  boost::asio::awaitable<result<bus::position>> post(std::string channel, bus::payload_form form, std::string payload) override;
  boost::asio::awaitable<result<bus::position>> listen(std::string channel) override;
  void unlisten(std::string channel) override;
  boost::asio::awaitable<result<std::string>> feed_channel(std::string table) override;
  boost::asio::awaitable<result<std::shared_ptr<const feeds::view>>> open_view(std::string channel, feeds::view_request asked) override;
  boost::asio::awaitable<result<std::unique_ptr<feeds::spool_reader>>> snapshot(std::string channel,
                                                                                std::shared_ptr<const feeds::view> shown) override;
  boost::asio::awaitable<result<streams::page>> read_stream(std::string channel, bus::start from, std::size_t most) override;
  boost::asio::awaitable<result<bus::start>> consumer_start(std::string channel, std::string consumer) override;
  boost::asio::awaitable<result<>> ack(std::string channel, std::string consumer, std::string position) override;
  bool ready() const override;
  std::string problem() const override;
  boost::json::object status() const override;

private:
  struct running;
  void spawn(std::string_view name, boost::asio::awaitable<void> work);
  boost::asio::awaitable<result<bus::position>> post_here(std::string channel, bus::payload_form form, std::string payload);
  boost::asio::awaitable<result<bus::position>> listen_here(std::string channel);
  boost::asio::awaitable<result<std::string>> find_feed_here(std::string table);
  boost::asio::awaitable<result<std::shared_ptr<const feeds::view>>> open_view_here(std::string channel, feeds::view_request asked);
  error no_feeds() const;
  error no_streams() const;
  void notified(const postgres::notification& n);
  void publish_notified();
  void listener_lost(const error& why);
  void listener_back();

  bus::hub& hub_;
  database_options options_;
  boost::asio::any_io_executor executor_;
  std::unique_ptr<running> running_;
  std::shared_ptr<bus::batch> notified_;  // gathered until what has arrived is read
  std::atomic<bool> listening_{false};
  mutable std::mutex guard_;  // of listener_problem_
  std::string listener_problem_;
  std::optional<bus::position> alive_at_;  // the listening session's last sign of life
  bus::position lost_at_;
  bool stopped_{};
  std::size_t under_way_{};  // coroutines of ours
};

}  // namespace postbus::app
