#pragma once
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <deque>
#include <string>

#include "bus/hub.hpp"
#include "postgres/connection.hpp"

namespace postbus::feeds {

/**
 * Sends feed events on to plain channels by NOTIFY, from a session of its own and outside of anyone's transaction.
 *
 * NOTIFY in a writing transaction makes all such writers of the server wait for one another's disk writes; a transaction
 * that only notifies is cheap, and many notifications share one. Of several gateways on one database the holder of a
 * session advisory lock mirrors; the others drop what they are given until they hold it.
 *
 * Bounded: beyond `queue_bytes`, or when a notification's fate is unknown because the session broke, the loss is told
 * to all listeners as a gap; so is what the last holder may not have sent, where another one takes over. Not guaranteed: that
 * one which takes over without ever having found the lock held sends nothing twice. Its executor only.
 */
class mirror {
public:
  struct settings {
    std::string conninfo;  ///< a direct session: the lock is the session's
    std::size_t queue_bytes = 16u << 20;
    std::size_t transaction_bytes = 256u << 10;  ///< of notifications sent at once
  };
  mirror(boost::asio::any_io_executor executor, settings given, bus::hub& h);

  /** Runs until `stop`. Holds a session only from the first event on. */
  boost::asio::awaitable<void> run();
  void stop();

  /** NOTIFY can carry this many bytes. */
  static constexpr std::size_t max_payload = 7'999;
  /** Queues one notification: a plain channel, at most max_payload bytes of UTF-8 without NUL. What was committed before this process began is not sent. */
  void send(std::string_view channel, std::string payload, bus::position at);

private:
  struct note {
    std::string channel, payload;
    bus::position at;
  };
  boost::asio::awaitable<result<>> serve(postgres::connection& session);
  boost::asio::awaitable<result<>> flush(postgres::connection& session);
  boost::asio::awaitable<void> sleep(steady::duration longest);
  void take_over(std::uint64_t lsn);
  void tell_loss(std::size_t count, bus::position to, std::string_view why);
  void drop_all();

  settings settings_;
  bus::hub& hub_;
  boost::asio::steady_timer timer_;
  std::deque<note> queue_;
  std::size_t queued_bytes_{};
  bus::position sent_up_to_{};
  bool another_leads_{};  ///< it did when this one wanted to
  bool stopped_{};
};

}  // namespace postbus::feeds
