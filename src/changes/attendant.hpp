#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <functional>
#include <memory>
#include <string>

#include "changes/flush_policy.hpp"
#include "changes/slot_guard.hpp"
#include "changes/visibility.hpp"
#include "postgres/connection.hpp"

namespace postbus::changes {

/**
 * What runs beside the stream on an ordinary session: it makes asynchronous commits reach the disk soon while somebody
 * waits for them (flush_policy), finds out which of the transactions that were read are visible by now (visibility), and
 * measures now and then what the slot costs the server, and whether the feeds are still fed: what somebody altered of the
 * publication or dropped of the tables is mended. Its executor only.
 */
class attendant {
public:
  struct settings {
    std::string conninfo;
    flush_policy::timing flush{};
    steady::duration health_every{std::chrono::seconds{10}};
    bool poke{true};  ///< false: never poll for unflushed WAL
    class visibility* visibility{};  ///< whose questions it asks; may be null, must outlive it
    std::function<void(const slot_health&)> on_health{};
    std::function<void(std::string left)> on_mended{};  ///< feeds were mended, but for what is `left`
  };
  attendant(boost::asio::any_io_executor executor, settings given);

  /** Runs until `stop`. */
  boost::asio::awaitable<void> run();
  void stop();

  /**
   * The slot to look after; empty while there is none. `held`: the permanent one that another session holds; see slot_health::free_from.
   * `awaited`: a transaction, by its wide id, of which slot_health tells whether it was rolled back; 0: none.
   */
  void slot(std::string name, std::string held = {}, std::uint64_t awaited = 0);
  /** A commit was read; see flush_policy::arrived. */
  void arrived(steady::duration after, bool caught_up);
  /** The visibility may have a question earlier than it said. */
  void look();

private:
  boost::asio::awaitable<result<>> attend(postgres::connection& session);
  boost::asio::awaitable<result<>> poke(postgres::connection& session);
  boost::asio::awaitable<result<>> measure(postgres::connection& session);
  boost::asio::awaitable<result<>> mend(postgres::connection& session);
  boost::asio::awaitable<result<>> ask_what_is_visible(postgres::connection& session);
  boost::asio::awaitable<void> sleep_until(steady::time_point until);

  settings settings_;
  flush_policy policy_;
  std::string slot_, held_;
  std::optional<std::string> awaited_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<postgres::connection> session_;
  steady::time_point next_health_{}, sleeping_until_{};
  bool poke_refused_{};
  bool stopped_{};
};

}  // namespace postbus::changes
