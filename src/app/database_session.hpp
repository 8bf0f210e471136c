#pragma once
#include <boost/asio/awaitable.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "postgres/connection.hpp"

namespace postbus::app {

/** Runs `work` to its end on a loop that lives as long; throws what it threw. */
void run_to_end(boost::asio::awaitable<void> work);
/** The same for work that has an outcome. */
template <class T>
T run_once(boost::asio::awaitable<T> work) {
  std::optional<T> out;
  run_to_end([](boost::asio::awaitable<T> from, std::optional<T>* into) -> boost::asio::awaitable<void> {
    auto value = co_await std::move(from);
    into->emplace(std::move(value));
  }(std::move(work), &out));
  return std::move(*out);
}

/** A blocking session for commands that run plain SQL and end: postgres::connection with a loop of its own. */
class database_session {
public:
  static constexpr std::chrono::seconds patience{30};

  /** Connects. */
  static result<database_session> open(const std::string& conninfo);
  /** Connects, and refuses a database whose schema is missing or of another version; the text names both versions and the fix. */
  static result<database_session> open_checked(const std::string& conninfo);

  database_session(database_session&&) noexcept;
  database_session& operator=(database_session&&) noexcept;
  ~database_session();

  /** A statement of sql/ by its path ("statements/cli/post_text.sql"). */
  result<postgres::rows> run(std::string_view statement, std::span<const postgres::parameter> parameters = {},
                             steady::duration deadline = patience);
  /** The same for a statement with a name of the user's in it: postgres::connection::query_in_own_path. */
  result<postgres::rows> run_in_own_path(std::string_view statement, std::span<const postgres::parameter> parameters,
                                         steady::duration deadline = patience);
  result<postgres::rows> query(std::string_view sql, std::span<const postgres::parameter> parameters, steady::duration deadline);

  /** Runs what the room postgres offers as a coroutine. */
  template <class T>
  T await(const std::function<boost::asio::awaitable<T>(postgres::connection&)>& work) {
    std::optional<T> out;
    complete([](const auto* make, std::optional<T>* into, postgres::connection* on) -> boost::asio::awaitable<void> {
      auto value = co_await (*make)(*on);
      into->emplace(std::move(value));
    }(&work, &out, &connection()));
    return std::move(*out);
  }

private:
  postgres::connection& connection();
  /** Runs the loop until `work` has ended; throws what it threw. */
  void complete(boost::asio::awaitable<void> work);

  struct impl;
  explicit database_session(std::unique_ptr<impl> made);
  std::unique_ptr<impl> impl_;
};

}  // namespace postbus::app
