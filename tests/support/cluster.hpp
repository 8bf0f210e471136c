#pragma once
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "postgres/embedded_server.hpp"

/**
 * The integration tests' PostgreSQL. Each test process (ctest starts one per suite) has a
 * private cluster of its own in a temporary folder, so a test may kill or restart it. Each test takes a fresh database.
 *
 *   TEST(feeds, carry_rows) {
 *     testing_support::database db;                       // schema installed
 *     db.psql("create table t(id int primary key)");
 *     EXPECT_EQ(db.psql("select count(*) from t"), "0");
 *   }
 */
namespace postbus::testing_support {

namespace asio = boost::asio;

using settings = std::vector<std::pair<std::string, std::string>>;

/** An empty folder of its own below /tmp that the server's user can enter; removed with everything in it at the end. */
class temporary_folder {
public:
  temporary_folder();
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder();
  const std::string& path() const { return path_; }

private:
  std::string path_;
};

/** A private PostgreSQL; throws std::runtime_error when it cannot be started. */
class cluster {
public:
  /** The one of this process: started at first use, stopped when the tests end. */
  static cluster& shared();
  /** One more, with settings of its own ({"wal_level", "replica"}). */
  explicit cluster(settings extra = {});
  ~cluster();

  postgres::embedded_server& server() { return *server_; }
  /** The superuser's URL of a database. */
  std::string url(std::string_view database = "postbus") const;
  /** The URL for another role, by password over TCP on 127.0.0.1. */
  std::string url_as(std::string_view role, std::string_view password, std::string_view database) const;
  /** Runs statements as the superuser and returns what `psql -At` prints of the last one; throws std::runtime_error when refused. */
  std::string psql(std::string_view sql, std::string_view database = "postbus") const;
  /** The name of a database with the schema in it, to copy from; made at first use. */
  std::string schema_template();
  /** Fast shutdown and start. */
  void restart();
  /** kill -9 of the postmaster, then waits until the supervisor has brought it back. */
  void kill_postmaster();

private:
  std::unique_ptr<temporary_folder> folder_;
  std::unique_ptr<postgres::embedded_server> server_;
  bool has_template_{};
};

/** What a refused statement says; `state` is empty when it was not refused. */
struct refusal {
  std::string state, message, detail, hint;
};

/** A fresh database that is dropped at the end, sessions in it included. */
class database {
public:
  enum class with { schema, nothing };
  explicit database(cluster& on = cluster::shared(), with what = with::schema);
  explicit database(with what) : database{cluster::shared(), what} {}
  database(const database&) = delete;
  database& operator=(const database&) = delete;
  ~database();

  const std::string& name() const { return name_; }
  /** The superuser's URL. */
  std::string url() const { return on_.url(name_); }
  std::string url_as(std::string_view role, std::string_view password) const { return on_.url_as(role, password, name_); }
  cluster& on() const { return on_; }
  std::string psql(std::string_view sql) const { return on_.psql(sql, name_); }
  /** Runs statements in one session and says how they were refused. `url`: of another role, else the superuser. */
  refusal refused(std::string_view sql, std::string_view url = {}) const;

private:
  cluster& on_;
  std::string name_;
};

/** A blocking session that stays open: for open transactions and several clients at once. */
class session {
public:
  explicit session(const std::string& url);
  session(const session&) = delete;
  session& operator=(const session&) = delete;
  ~session();
  /** As cluster::psql. Throws std::runtime_error when refused. */
  std::string psql(std::string_view sql);
  /** As psql, and says how it was refused. */
  refusal refused(std::string_view sql);
  /** What was notified on channels this session listens on, "channel payload", one a line; asks the server first. */
  std::string notifications();
  /** Text of the warnings and notices since the last call, one a line. */
  std::string notices();

private:
  void* connection_;
  std::string notices_;
};

/** Commits wait for a standby that is not there, until it is forgotten: also when the test fails. */
class absent_standby {
public:
  /** Returns when they do. */
  explicit absent_standby(cluster& on);
  absent_standby(const absent_standby&) = delete;
  absent_standby& operator=(const absent_standby&) = delete;
  ~absent_standby() { forget(); }
  void forget() const;

private:
  cluster& on_;
};

/** Runs one coroutine of the production code to its end on a loop of its own; returns what it returns. */
template <class T>
T run(asio::awaitable<T> work) {
  asio::io_context loop;
  auto ended = asio::co_spawn(loop, std::move(work), asio::use_future);
  loop.run();
  return ended.get();
}

}  // namespace postbus::testing_support
