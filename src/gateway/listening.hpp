#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/unordered/unordered_flat_map.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "bus/hub.hpp"
#include "feeds/spool.hpp"
#include "feeds/view.hpp"
#include "gateway/tokens.hpp"

namespace postbus::gateway {

class loop;
class listening;

/** One subscription's share in the LISTEN for a plain channel; gives it back when it goes. Loop's thread. */
class plain_lease {
public:
  plain_lease() = default;
  plain_lease(listening& from, std::string channel, bus::position since) : from_{&from}, channel_{std::move(channel)}, since_{since} {}
  plain_lease(plain_lease&& other) noexcept { swap(other); }
  plain_lease& operator=(plain_lease&& other) noexcept {
    swap(other);
    return *this;
  }
  ~plain_lease();
  explicit operator bool() const { return from_ != nullptr; }
  /** NOTIFY on the channel has reached us without a break since this position. */
  const bus::position& since() const { return since_; }

private:
  void swap(plain_lease& other) noexcept {
    std::swap(from_, other.from_);
    std::swap(channel_, other.channel_);
    std::swap(since_, other.since_);
  }
  listening* from_{};
  std::string channel_;
  bus::position since_;
};

/** What a client asked to listen to, and, once prepared, what makes it complete. */
struct listen_request {
  std::string channel;
  bus::start from{bus::from_now{}};
  bool snapshot{};  ///< the table's rows first, unless `from` is a position
  std::unique_ptr<feeds::view_request> filter{};  ///< null: all of the channel
  std::string consumer{};  ///< of a stream: where it goes on decides instead of `from`
  std::unique_ptr<identity> who{};  ///< of a feed, until it is prepared: whom its right name may be told
  plain_lease plain{};
  std::unique_ptr<feeds::spool_reader> rows{};  ///< the answer to `snapshot`
  std::shared_ptr<const feeds::view> view{};  ///< the answer to `filter`

  /** What to subscribe to: the view's channel, which has the named one for its history. */
  std::string_view topic() const { return view ? view->channel() : std::string_view{channel}; }
};

/**
 * What must be true before a loop's session may subscribe: LISTEN is in force for a plain channel (asked once per loop and
 * channel, however many listen), a feed's table is watched, a filtered feed is registered, a snapshot's rows have begun to
 * come, and a position that lies ahead (`at_least` of a post just made) has been reached.
 */
class listening {
public:
  explicit listening(loop& home) : home_{home} {}

  using then = std::function<void(result<listen_request>)>;
  /**
   * Calls `done` when `asked` may subscribe: from within when nothing needs waiting for, else later on this thread. `who` asks,
   * and may listen to what it named; null without tokens.
   */
  void prepare(listen_request asked, const identity* who, then done);
  /** Once a turn: positions that were ahead may have been reached. */
  void turn();
  std::size_t channels() const { return plain_.size(); }

private:
  friend class plain_lease;
  struct plain_channel {
    std::size_t leases{};
    bool open{};
    bus::position since;
    std::vector<std::pair<listen_request, then>> waiting;
  };
  struct ahead {
    listen_request asked;
    then done;
    steady::time_point deadline;
  };
  void wait_for_start(listen_request asked, then done);
  void prepare_named(listen_request asked, then done);
  boost::asio::awaitable<void> check_feed(listen_request asked, then done);
  void prepare_plain(listen_request asked, then done);
  boost::asio::awaitable<void> open_view(listen_request asked, then done);
  static boost::asio::awaitable<void> place_consumer(loop& home, listen_request asked, then done);
  boost::asio::awaitable<void> open(std::string channel);
  boost::asio::awaitable<void> open_rows(listen_request asked, then done);
  void give_back(const std::string& channel);

  loop& home_;
  boost::unordered_flat_map<std::string, plain_channel> plain_;
  std::vector<ahead> ahead_;
};

/**
 * What a new subscriber is given first, in this portion that comes after `from`: of a filtered feed what its view shows, and
 * word of notifications that nobody heard.
 */
void complete_replay(const listen_request& asked, const bus::progress& from, bus::replay& given);
/** errc::invalid_argument: rows first is asked of what has none, or from a place that is no position. */
result<> check_snapshot(std::string_view channel, const bus::start& from, bool wanted);

/** errc::invalid_argument: the name is empty, or the channel is one that keeps nothing for consumers. */
result<> check_consumer(std::string_view channel, std::string_view consumer);

/**
 * A listener that resumes from an event that came by plain NOTIFY, while LISTEN was not held without a break since: what was
 * notified meanwhile was heard by nobody. Its replay is made to begin with a gap.
 */
void add_missed_notifications(const listen_request& asked, bus::replay& given);

}  // namespace postbus::gateway
