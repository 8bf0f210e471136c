#pragma once
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <future>
#include <map>
#include <memory>
#include <thread>

#include "bus/hub.hpp"
#include "bus/shard.hpp"
#include "changes/reader.hpp"
#include "embed/dispatcher.hpp"
#include "feeds/table_feeds.hpp"
#include "postbus/hub.hpp"
#include "postgres/listener.hpp"
#include "postgres/pool.hpp"
#include "postgres/poster.hpp"

namespace postbus {

/**
 * The loop's side of an embedded hub: reader, feeds, listening session and poster on one thread, as in `serve`, with one
 * shard of the bus. What the shard delivers goes to the dispatcher's bounded queue, from where a second thread calls the
 * handlers: so a handler may wait for a post of its own.
 */
struct embedded_hub::impl {
  using post_form = postgres::post_form;

  explicit impl(hub_options how);
  ~impl();

  // Any thread but the loop's.
  void start();
  /** Ends everything and joins; not on the dispatcher's thread. Once is enough. */
  void shut_down();
  std::shared_ptr<hub_subscription::impl> listen(std::string channel, std::function<void(const event&)> handler, bus::start from);
  std::string post(std::string channel, post_form form, std::string payload);
  void end(std::shared_ptr<hub_subscription::impl> subscription);

  /** Runs a coroutine on the loop and waits for its outcome. */
  template <class T>
  T wait_for(boost::asio::awaitable<T> work);

  // The loop's thread.
  boost::asio::awaitable<result<>> prepare();
  boost::asio::awaitable<result<>> until_ready();
  boost::asio::awaitable<result<>> subscribe(std::shared_ptr<hub_subscription::impl> s, bus::start from);
  void unsubscribe(hub_subscription::impl& s);
  void spawn(std::string_view name, boost::asio::awaitable<void> work);
  void deliver();
  void notified(const postgres::notification& n);
  void publish_notified();
  void stop_all();
  void stop_if_over();

  hub_options options;
  boost::asio::io_context loop{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> busy{loop.get_executor()};
  bus::hub hub;
  embed::dispatcher handlers;
  bus::shard shard;
  postgres::pool pool;
  postgres::poster poster;
  postgres::listener listener;
  feeds::table_feeds feeds;
  changes::reader reader;
  std::shared_ptr<bus::batch> notified_batch;
  bus::position lost_at;
  std::map<hub_subscription::impl*, std::shared_ptr<hub_subscription::impl>> subscriptions;
  std::size_t under_way{};  ///< coroutines that were spawned and have not ended
  bool stopping{};
  std::thread thread;
};

/** One listener: the shard calls it on the loop's thread, the dispatcher calls its handler. */
struct hub_subscription::impl : bus::listener {
  impl(std::string name, std::function<void(const event&)> to, embed::dispatcher& through)
      : channel{std::move(name)}, target{std::make_shared<embed::target>(std::move(to))}, handlers{&through} {}
  void on_event(bus::topic&, const bus::event_ref& e) override { handlers->push(target, e); }

  std::string channel;
  std::shared_ptr<embed::target> target;
  embed::dispatcher* handlers;                ///< while subscribed
  std::weak_ptr<embedded_hub::impl> owner;
  bool subscribed{}, listening{};             ///< the loop's thread
};

}  // namespace postbus
