// The hub inside a user's process. The life of an event here:
//
// 1. changes::reader streams the WAL on the loop's thread and publishes batches to bus::hub, as in `serve`; plain NOTIFY
//    and posts of other transports come by postgres::listener.
// 2. The hub rings the one shard; deliver() hands each event to the subscriptions of its channel, which push it into the
//    dispatcher's queue: a reference to the batch, no copy.
// 3. The dispatcher's thread copies it into a postbus::event and calls the handler.
//
// When the queue is over its bound, deliver() takes nothing from the shard's inbox; when that is full the hub has no room
// and the reader stops. The server keeps the WAL meanwhile. Nothing is dropped in silence.

#include "postbus/hub.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.hpp"
#include "bus/channel.hpp"
#include "embed/hub_core.hpp"
#include "embedded_sql.hpp"
#include "feeds/catalog.hpp"
#include "postgres/migrations.hpp"
#include "postgres/probe.hpp"

namespace postbus {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;

constexpr auto statement_deadline = 10s;
constexpr std::string_view post_channel = "postbus:post";

[[noreturn]] void raise(const error& why) {
  const auto& known = traits(why.code);
  throw request_error{std::string{known.name}, why.text, known.retry};
}

hub_options complete(hub_options how) {
  if (how.database_direct.empty()) how.database_direct = how.database;
  return how;
}

template <class T>
asio::awaitable<void> keep(asio::awaitable<T> work, std::shared_ptr<std::promise<T>> into) {
  auto value = co_await std::move(work);
  into->set_value(std::move(value));
}

}  // namespace

embedded_hub::impl::impl(hub_options how)
    : options{complete(std::move(how))},
      hub{{.history_bytes = options.history_bytes}},
      handlers{options.queue_events, [this] { asio::post(loop, [this] { deliver(); }); }},
      shard{hub, {}, [this] { asio::post(loop, [this] { deliver(); }); }},
      pool{loop.get_executor(), {.session = {.conninfo = options.database, .application_name = "postbus hub"}, .sessions = 2}},
      poster{loop.get_executor(), pool},
      listener{loop.get_executor(),
               {.session = {.conninfo = options.database_direct, .application_name = "postbus hub listener"}},
               {.on_notification = [this](const postgres::notification& n) { notified(n); },
                .on_lost = [this](const error&) { lost_at = hub.head(); },
                .on_back =
                    [this] {
                      const auto now = hub.head();
                      if (now.epoch == lost_at.epoch) hub.announce_gap(lost_at, now, "notify", bus::channels::plain);
                    }}},
      feeds{std::make_unique<feeds::database_catalog>(options.database)},
      reader{loop.get_executor(), {.conninfo = options.database, .conninfo_direct = options.database_direct}, hub, &feeds} {
  thread = std::thread{[this] { loop.run(); }};
}

embedded_hub::impl::~impl() { shut_down(); }

void embedded_hub::impl::shut_down() {
  if (!thread.joinable()) return;
  handlers.stop();  // first: a handler that posts still has a loop to do it
  asio::post(loop, [this] { stop_all(); });
  busy.reset();
  thread.join();
}

template <class T>
T embedded_hub::impl::wait_for(asio::awaitable<T> work) {
  auto outcome = std::make_shared<std::promise<T>>();
  auto future = outcome->get_future();
  asio::co_spawn(loop, keep(std::move(work), outcome), [outcome](std::exception_ptr thrown) {
    if (thrown) outcome->set_exception(thrown);
  });
  return future.get();
}

void embedded_hub::impl::spawn(std::string_view name, asio::awaitable<void> work) {
  ++under_way;
  asio::co_spawn(loop, std::move(work), [this, name](const std::exception_ptr& failure) {
    --under_way;
    stop_if_over();
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      log::error("hub", "{} ended: {}", name, e.what());
    }
  });
}

void embedded_hub::impl::start() {
  if (const auto prepared = wait_for(prepare()); !prepared) raise(prepared.error());
  asio::post(loop, [this] {
    spawn("the poster", poster.run());
    spawn("the listener", listener.run());
    spawn("the reader", reader.run());
    spawn("the reader's attendant", reader.beside());
  });
  if (const auto ready = wait_for(until_ready()); !ready) raise(ready.error());
}

/** Refuses what it cannot work with, with the fix, before anything is opened for long. */
asio::awaitable<result<>> embedded_hub::impl::prepare() {
  auto session = co_await pool.acquire(statement_deadline);
  if (!session) co_return session.error();
  const auto schema = co_await postgres::read_schema(**session, statement_deadline);
  if (!schema) co_return schema.error();
  if (const auto fits = postgres::check_schema(*schema); !fits) co_return fits.error();
  auto facts = co_await postgres::probe(options.database, options.database_direct, options.start_timeout);
  if (!facts) co_return facts.error();
  const auto tier = postgres::choose_tier(*facts);
  if (tier.transport != postgres::tier::kind::wal)
    co_return error{errc::unsupported, "an embedded hub reads the WAL, and here it cannot: " + tier.reason + ". " + tier.fix};
  if (facts->transport == "wal") co_return result<>{};
  const postgres::parameter transport[] = {"wal"};
  const auto changed = co_await (**session).query(embedded_sql::find("statements/use_transport.sql"), transport, statement_deadline);
  if (!changed) co_return changed.error();
  co_return result<>{};
}

asio::awaitable<result<>> embedded_hub::impl::until_ready() {
  asio::steady_timer pause{loop};
  const auto until = steady::now() + options.start_timeout;
  while (!reader.status().ready() || !listener.connected()) {
    if (steady::now() >= until) {
      auto problem = reader.status().problem;
      co_return error{errc::timed_out, problem.empty() ? "the database did not let the hub listen in time" : std::move(problem)};
    }
    pause.expires_after(10ms);
    co_await pause.async_wait(asio::use_awaitable);
    // The listening session is opened when something is listened on.
    if (reader.status().ready() && !listener.connected()) {
      const auto heard = co_await listener.listen(std::string{post_channel});
      if (!heard && heard.error().code != errc::unavailable) co_return heard.error();
    }
  }
  co_return result<>{};
}

/** Once all work has ended the loop does too: timers that nobody waits for any more would keep it for seconds. */
void embedded_hub::impl::stop_if_over() {
  if (stopping && under_way == 0) loop.stop();
}

void embedded_hub::impl::stop_all() {
  stopping = true;
  while (!subscriptions.empty()) unsubscribe(*subscriptions.begin()->second);
  poster.stop();
  listener.stop();
  reader.stop();
  pool.close();
  stop_if_over();
}

// ------------------------------------------------------------------------------------------------------ subscriptions

std::shared_ptr<hub_subscription::impl> embedded_hub::impl::listen(std::string channel, std::function<void(const event&)> handler,
                                                                   bus::start from) {
  auto made = std::make_shared<hub_subscription::impl>(std::move(channel), std::move(handler), handlers);
  if (const auto done = wait_for(subscribe(made, std::move(from))); !done) raise(done.error());
  return made;
}

asio::awaitable<result<>> embedded_hub::impl::subscribe(std::shared_ptr<hub_subscription::impl> s, bus::start from) {
  if (bus::is_plain(s->channel)) {
    const auto heard = co_await listener.listen(s->channel);
    if (!heard) co_return heard.error();
    s->listening = true;
  }
  auto replay = shard.subscribe(*s, s->channel, from);
  for (auto& e : replay.events) handlers.push(s->target, std::move(e));
  s->subscribed = true;
  subscriptions.emplace(s.get(), s);
  co_return result<>{};
}

void embedded_hub::impl::unsubscribe(hub_subscription::impl& s) {
  s.target->ended.store(true);
  if (std::exchange(s.listening, false)) listener.unlisten(s.channel);
  if (std::exchange(s.subscribed, false)) shard.unsubscribe(s, s.channel);
  subscriptions.erase(&s);
}

void embedded_hub::impl::end(std::shared_ptr<hub_subscription::impl> subscription) {
  handlers.end(*subscription->target);
  asio::post(loop, [this, subscription] { unsubscribe(*subscription); });
}

// ------------------------------------------------------------------------------------------------------------- events

void embedded_hub::impl::deliver() {
  if (!handlers.has_room()) return;  // the dispatcher calls again
  shard.deliver();
  shard.flush();
}

void embedded_hub::impl::notified(const postgres::notification& n) {
  if (n.channel == post_channel) return;  // posts come by the WAL
  if (!notified_batch) {
    notified_batch = std::make_shared<bus::batch>();
    asio::post(loop, [this] { publish_notified(); });
  }
  notified_batch->add(n.channel, bus::kind::message, bus::payload_form::text, n.payload, {}, now_micros());
}

void embedded_hub::impl::publish_notified() {
  auto batch = std::exchange(notified_batch, nullptr);
  if (batch && !hub.publish(std::move(batch))) log::warning("hub", "notifications come faster than the handlers take them");
}

std::string embedded_hub::impl::post(std::string channel, post_form form, std::string payload) {
  const auto lsn = wait_for(poster.post(std::move(channel), form, std::move(payload)));
  if (!lsn) raise(lsn.error());
  return bus::to_text({hub.head().epoch, *lsn, bus::position::end_of_commit});
}

// -------------------------------------------------------------------------------------------------- the public face

embedded_hub::embedded_hub(hub_options options) : impl_{std::make_shared<impl>(std::move(options))} { impl_->start(); }
// Here and not in impl's destructor: a subscription that stops at this moment may hold the last share of it.
embedded_hub::~embedded_hub() { impl_->shut_down(); }

hub_subscription embedded_hub::listen(std::string_view channel, std::function<void(const event&)> handler, std::string_view after) & {
  if (const auto fine = bus::check_channel(channel); !fine) raise(fine.error());
  const auto from = bus::parse_start(after);
  if (!from) raise(from.error());
  auto made = impl_->listen(std::string{channel}, std::move(handler), *from);
  made->owner = impl_;
  return hub_subscription{std::move(made)};
}

std::string embedded_hub::post(std::string_view channel, std::string_view payload) & {
  if (const auto fine = bus::check_post_channel(channel); !fine) raise(fine.error());
  return impl_->post(std::string{channel}, postgres::post_form::text, std::string{payload});
}

std::string embedded_hub::post_json(std::string_view channel, std::string_view json) & {
  if (const auto fine = bus::check_post_channel(channel); !fine) raise(fine.error());
  return impl_->post(std::string{channel}, postgres::post_form::json, std::string{json});
}

bool embedded_hub::ready() const& { return impl_->reader.status().ready(); }
std::string embedded_hub::problem() const& { return impl_->reader.status().problem; }

hub_subscription::hub_subscription(std::shared_ptr<impl> made) : impl_{std::move(made)} {}
hub_subscription::hub_subscription(hub_subscription&&) noexcept = default;
hub_subscription& hub_subscription::operator=(hub_subscription&& other) noexcept {
  if (impl_ && impl_ != other.impl_) stop();
  impl_ = std::move(other.impl_);
  return *this;
}
hub_subscription::~hub_subscription() {
  if (impl_) stop();
}
void hub_subscription::stop() & {
  impl_->target->ended.store(true);
  if (const auto owner = impl_->owner.lock()) owner->end(impl_);
}
bool hub_subscription::ended() const& { return impl_->target->ended.load() || impl_->owner.expired(); }

}  // namespace postbus
