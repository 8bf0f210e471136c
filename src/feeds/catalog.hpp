#pragma once
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "feeds/partition_identities.hpp"
#include "feeds/value_type.hpp"
#include "postgres/connection.hpp"

namespace postbus::feeds {

/** A watched table and its options, as postbus.watch left them. */
struct watched_table {
  oid table{};
  std::string schema, name;
  std::optional<std::vector<std::string>> columns;  ///< nullopt: all
  std::string notify;                               ///< plain channel the feed is mirrored to, or empty
  std::vector<std::string> primary_key;
  bool partitioned{};
  std::vector<carried_columns> partitions{};  ///< those that have rows
  std::uint64_t before_xid{};  ///< what transactions before this one did is seen in them
  std::uint64_t as_of{};       ///< the WAL had not come further when they were read
};

struct table_description;

/** What feeds must know and the stream does not tell. One call at a time. */
class catalog {
public:
  virtual ~catalog() = default;
  /** All watched tables as they are once transaction `visible_xid` (0: any moment) can be seen; waits a little for that (errc::timed_out). */
  virtual boost::asio::awaitable<result<std::vector<watched_table>>> watched(std::uint64_t visible_xid) = 0;
  /** What is known of `types` and of what they are made of. */
  virtual boost::asio::awaitable<result<std::vector<type_row>>> types(std::vector<oid> types) = 0;
  /** The columns that the feed shows, as the last member of an object: "columns":[{"name":…,"type":…},…]} */
  virtual boost::asio::awaitable<result<std::string>> describe(const table_description& t) = 0;
};

/** The database's own catalog, over one session that is made when it is needed and kept. */
class database_catalog : public catalog {
public:
  explicit database_catalog(std::string conninfo) : conninfo_{std::move(conninfo)} {}
  boost::asio::awaitable<result<std::vector<watched_table>>> watched(std::uint64_t visible_xid) override;
  boost::asio::awaitable<result<std::vector<type_row>>> types(std::vector<oid> types) override;
  boost::asio::awaitable<result<std::string>> describe(const table_description& t) override;

private:
  boost::asio::awaitable<result<postgres::rows>> ask(std::string_view statement, postgres::parameter parameter);

  std::string conninfo_;
  std::optional<postgres::connection> session_;
};

/** The channel of the feed of a table named as a user writes it. errc::not_watched tells the command that watches it. */
boost::asio::awaitable<result<std::string>> find_feed(postgres::connection& session, std::string table);

}  // namespace postbus::feeds
