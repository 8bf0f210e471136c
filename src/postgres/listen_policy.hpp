#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.hpp"
#include "postgres/backoff.hpp"

namespace postbus::postgres {

struct listen_limits {
  steady::duration linger{std::chrono::seconds{10}};  ///< from the last listener's leaving to UNLISTEN
  steady::duration idle{std::chrono::seconds{2}};     ///< of silence, after which the server is asked for a sign of life
  steady::duration answer{std::chrono::seconds{4}};   ///< that any command may take before the session counts as broken
  std::size_t batch{1000};                            ///< LISTENs or UNLISTENs in one command
};

/**
 * What the listening session must do next, without doing it: no I/O, no clock of its own.
 *
 * A channel is wanted while somebody listens on it and for `linger` after; it is heard from the moment its LISTEN has
 * committed until its UNLISTEN is sent or the session is lost. Commands are batched: whatever was asked for while one
 * was running goes into the next. Losing the session starts an outage; it ends once all that was wanted when the next
 * session opened is heard again.
 */
class listen_policy {
public:
  /** LISTEN requests are numbered as they are queued; one is done when settled() has reached its number. */
  using ticket = std::uint64_t;

  struct open {};
  struct run {
    std::string sql;
  };
  struct wait {
    steady::time_point until;
  };
  using action = std::variant<open, run, wait>;

  listen_policy(listen_limits limits, std::uint64_t seed) : limits_{limits}, backoff_{seed} {}

  // Requests.

  /** One more listener of `channel`. 0: it is heard already. nullopt, and not counted: there is no session and none is being opened. */
  std::optional<ticket> listen(std::string_view channel);
  /** One listener fewer; ignored where there is none. */
  void unlisten(std::string_view channel, steady::time_point now);

  // The driver's turn. It carries out next()'s action and reports with one of the events below.

  action next(steady::time_point now);
  void opened(steady::time_point now);
  /** The command of the last `run` succeeded. */
  void ran(steady::time_point now);
  /** A notification arrived: the session lives. */
  void heard(steady::time_point now) { last_heard_ = now; }
  /**
   * The session broke, refused a command, or could not be opened. Requests in progress have failed: the driver has
   * taken their listeners off first. True when this begins an outage.
   */
  bool lost(steady::time_point now);
  /** True once after each outage: everything wanted is heard again. */
  bool take_end_of_outage();

  // State.

  bool connected() const { return state_ == state::connected; }
  ticket settled() const { return settled_; }
  bool is_wanted(std::string_view channel) const { return channels_.contains(channel); }
  /** Channels whose LISTEN is in force. */
  std::size_t listening() const { return listening_; }
  /** A number that no other stretch of unbroken listening has; nullopt while the channel is not heard. */
  std::optional<std::uint64_t> generation(std::string_view channel) const;

  struct entry {
    std::size_t listeners{};
    std::uint64_t generation{};                     ///< 0: not heard
    steady::time_point since{};                     ///< of this generation
    ticket queued{};                                ///< 0: no LISTEN is queued or running
    steady::time_point leave{steady::time_point::max()};  ///< when the linger ends
  };
  const std::map<std::string, entry, std::less<>>& channels() const { return channels_; }

private:
  enum class state { waiting, opening, connected };

  ticket queue(const std::string& channel, entry& e);
  void drop_expired(steady::time_point now);
  std::optional<std::string> next_listens();
  std::optional<std::string> next_unlistens();

  listen_limits limits_;
  backoff backoff_;
  state state_{state::waiting};
  steady::time_point retry_at_{};  ///< the epoch: at once
  steady::time_point opened_at_{};
  steady::time_point last_heard_{};
  std::map<std::string, entry, std::less<>> channels_;
  std::deque<std::string> to_listen_;
  std::deque<std::string> to_unlisten_;
  std::deque<std::pair<steady::time_point, std::string>> lingering_;  ///< in order of time; stale where the entry says otherwise
  std::vector<std::string> running_;                                  ///< the LISTENs of the command in progress
  ticket queued_{};
  ticket settled_{};
  std::uint64_t last_generation_{};
  std::size_t listening_{};
  bool outage_{};
  ticket outage_ends_at_{};
};

}  // namespace postbus::postgres
