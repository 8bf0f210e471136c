#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "changes/row_handler.hpp"
#include "feeds/catalog.hpp"
#include "feeds/row_change.hpp"
#include "feeds/view_registry.hpp"

namespace postbus::feeds {

class mirror;

/**
 * Turns rows of watched tables into events of their channels (`table:SCHEMA.TABLE`): each change's JSON is written once,
 * into the batch that the hub will share among all listeners. Given to changes::reader as its row handler.
 *
 * Each event carries the row it was made from, so that filtered feeds (views) can be derived from it when it is published.
 *
 * Thread: the reader's, except where said. `m` may be null (no mirror) and must outlive it.
 */
class table_feeds : public changes::row_handler {
public:
  explicit table_feeds(std::unique_ptr<catalog> from, mirror* m = nullptr);
  ~table_feeds() override;

  void started(int server_version) override;
  void relation(const changes::transaction& in, const postgres::pgoutput::relation& r) override;
  bool insert(const changes::transaction& in, const postgres::pgoutput::insert& change, bus::batch& out) override;
  bool update(const changes::transaction& in, const postgres::pgoutput::update& change, bus::batch& out) override;
  bool delete_(const changes::transaction& in, const postgres::pgoutput::delete_& change, bus::batch& out) override;
  void truncate(const changes::transaction& in, const postgres::pgoutput::truncate& change, bus::batch& out) override;
  void internal(const changes::transaction& in, std::string_view name, std::string_view content) override;
  bool wants_to_resolve() const override { return stale_ || types_stale_ || !unknown_types_.empty() || !unnamed_.empty(); }
  boost::asio::awaitable<result<>> resolve() override;
  void moved(std::size_t from) override;
  void committed(std::span<bus::event* const> events, std::size_t known) override;
  void abandoned() override;
  void before_publish(bus::batch& events) override;

  /** The filtered feeds. */
  view_registry& views() { return *views_; }
  /**
   * The feed's channel for `table` ("orders" is public.orders) if it was watched when the stream last told; any thread.
   * nullopt is no proof: ask find_feed then.
   */
  std::optional<std::string> channel_of(std::string_view table) const;
  /** The watched tables as the stream last told; any thread. */
  std::vector<watched_table> watched() const;

private:
  struct table;
  struct pending;
  void describe(const postgres::pgoutput::relation& r);
  table* find(std::uint32_t relation);
  void apply_options(table& t);
  bool look_again(const changes::transaction& in, bool fits);
  boost::asio::awaitable<result<>> resolve_types();
  void announce(table& t, const changes::transaction& in, bus::batch& out, std::uint32_t number = 0);
  void open(const table& t, std::string_view action);
  void close(table& t, const row_change& change, const changes::transaction& in, bus::batch& out, std::uint32_t number = 0);

  std::unique_ptr<catalog> catalog_;
  mirror* mirror_;
  std::shared_ptr<type_table> types_ = std::make_shared<type_table>();
  std::shared_ptr<view_registry> views_ = std::make_shared<view_registry>();
  boost::unordered_flat_map<std::uint32_t, std::unique_ptr<table>> tables_;  ///< by relation id of the stream
  std::map<oid, type_row> type_rows_;  ///< what they were made from
  std::uint32_t told_last_{};  ///< the relation message that no row has followed yet; 0: none
  std::optional<std::uint64_t> found_at_;  ///< where the WAL was when the catalog's partitions were read; the stream has not come past it
  std::vector<oid> unknown_types_;
  bool types_stale_{};  ///< types that are not PostgreSQL's own must be looked up again
  bool misfit_{};  ///< because a value is not what its type promises
  steady::time_point misfits_until_{};  ///< that was no use a moment ago: until then values are taken as they come
  std::vector<std::uint32_t> unnamed_;  ///< tables whose columns have changed and whose types' names are looked up for the event that tells
  bool stale_{true};  ///< the list of watched tables must be read anew
  std::uint64_t stale_xid_{};  ///< as seen by this transaction; 0: now
  std::string json_;  ///< the payload in the making
  std::string left_out_;  ///< names of its unchanged columns
  std::size_t data_at_{}, data_end_{};  ///< of the value of "data" in it
  std::vector<pending> pending_;  ///< mirrored events of the open transaction

  mutable std::mutex guard_;  // of watched_
  std::vector<watched_table> watched_;
};

}  // namespace postbus::feeds
