// One executor carries the database. The gateway's loops call in through co_spawn on it and are resumed on their own; the
// hub takes what comes out, from here to every loop.

#include "app/database_side.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include "app/notify_message.hpp"
#include "app/tier_watch.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "bus/channel.hpp"
#include "changes/row_router.hpp"
#include "feeds/binding.hpp"
#include "feeds/catalog.hpp"
#include "streams/message_rows.hpp"
#include "streams/store.hpp"

namespace postbus::app {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;
using namespace std::chrono_literals;

/** A client that subscribes while the database is away is kept waiting this long: an EventSource does not retry a 503. */
constexpr auto patience_for_listen = 10s;
constexpr auto statement_deadline = 5s;
/** The channel that posts travel on in the NOTIFY tier. */
constexpr std::string_view post_channel = "postbus:post";

}  // namespace

struct database_side::running {
  running(database_side& self, const asio::any_io_executor& executor, const database_options& options)
      : pool{executor, {.session = {.conninfo = options.conninfo}}},
        poster{executor, pool},
        listener{executor,
                 {.session = {.conninfo = options.conninfo_direct, .application_name = "postbus listener"}},
                 {.on_notification = [&self](const postgres::notification& n) { self.notified(n); },
                  .on_alive = [&self] { self.alive_at_ = self.hub_.head(); },
                  .on_lost = [&self](const error& why) { self.listener_lost(why); },
                  .on_back = [&self] { self.listener_back(); }}},
        changed{executor, steady::time_point::max()},
        tier{executor, {.db = options.conninfo, .direct = options.conninfo_direct}, options.tier, [this] {
               return reader && reader->status().ready();
             }} {
    if (!tier.wal()) return;
    mirror.emplace(executor, feeds::mirror::settings{.conninfo = options.conninfo_direct}, self.hub_);
    feeds.emplace(std::make_unique<feeds::database_catalog>(options.conninfo), &*mirror);
    recorder.emplace(executor,
                     streams::recorder::settings{.conninfo = options.conninfo_direct,
                                                 .reading = [this] { return reader->status().reading(); },
                                                 .instance = [this] { return reader->status().identity.instance; }},
                     self.hub_);
    messages.emplace(*recorder);
    store.emplace(executor, streams::store::settings{.conninfo = options.conninfo}, *recorder, self.hub_);
    router.emplace(*feeds);
    router->claim("postbus", "messages", *messages);
    reader.emplace(executor,
                   changes::reader_options{.conninfo = options.conninfo,
                                           .conninfo_direct = options.conninfo_direct,
                                           .slot = {.wanted = options.slot},
                                           .window = options.window,
                                           .recorded = [this] { return recorder->recorded_lsn(); },
                                           .spill = options.spill},
                   self.hub_, &*router);
    snapshots.emplace(executor, feeds::snapshots::settings{.conninfo = options.conninfo_direct, .bytes = options.snapshot_bytes}, self.hub_,
                      *reader, [&self](std::string_view name, asio::awaitable<void> work) { self.spawn(name, std::move(work)); });
  }
  postgres::pool pool;
  postgres::poster poster;
  postgres::listener listener;
  asio::steady_timer changed;  // cancelled when the listener is back
  std::optional<class feeds::mirror> mirror;
  std::optional<feeds::table_feeds> feeds;
  std::optional<streams::recorder> recorder;
  std::optional<streams::message_rows> messages;
  std::optional<streams::store> store;
  std::optional<changes::row_router> router;
  std::optional<changes::reader> reader;
  std::optional<class feeds::snapshots> snapshots;
  tier_watch tier;  // asks the reader
};

void database_side::spawn(std::string_view name, asio::awaitable<void> work) {
  ++under_way_;
  asio::co_spawn(executor_, std::move(work), [this, name](const std::exception_ptr& failure) {
    --under_way_;
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      log::error("database", "{} ended: {}", name, e.what());
    }
  });
}

database_side::database_side(bus::hub& hub) : hub_{hub} {}
database_side::~database_side() = default;

void database_side::start(asio::any_io_executor executor, database_options options) {
  executor_ = std::move(executor);
  options_ = std::move(options);
  running_ = std::make_unique<running>(*this, executor_, options_);
  auto& r = *running_;
  spawn("the poster", r.poster.run());
  spawn("the listener", r.listener.run());
  spawn("the watch over the tier", r.tier.run());
  if (r.reader) {
    spawn("the reader", r.reader->run());
    spawn("the reader's attendant", r.reader->beside());
    spawn("the mirror", r.mirror->run());
    spawn("the streams' recorder", r.recorder->run());
    spawn("the streams' maintenance", r.recorder->maintain());
  } else {
    hub_.begin({options_.epoch, options_.lsn, bus::position::end_of_commit});
  }
  // Posts of the NOTIFY tier come on this channel. In either tier it is what keeps the one listening session open.
  struct subscribing {
    static asio::awaitable<void> run(database_side& self) {
      while (!self.stopped_) {
        const auto heard = co_await self.listen_here(std::string{post_channel});
        if (!heard) continue;  // it waited for long, and said why in problem()
        self.listening_.store(true);
        co_return;
      }
    }
  };
  spawn("listening", subscribing::run(*this));
}

void database_side::stop() {
  if (!running_) return;
  stopped_ = true;
  running_->poster.stop();
  running_->listener.stop();
  running_->changed.cancel();
  running_->tier.stop();
  if (running_->reader) {
    running_->snapshots->stop();
    running_->reader->stop();
    running_->mirror->stop();
    running_->recorder->stop();
    running_->store->close();
  }
  running_->pool.close();
}

void database_side::close() { running_.reset(); }

// --- Posting

asio::awaitable<result<bus::position>> database_side::post(std::string channel, bus::payload_form form, std::string payload) {
  co_return co_await asio::co_spawn(executor_, post_here(std::move(channel), form, std::move(payload)), asio::use_awaitable);
}

asio::awaitable<result<bus::position>> database_side::post_here(std::string channel, bus::payload_form form, std::string payload) {
  const auto as = form == bus::payload_form::json ? postgres::post_form::json : postgres::post_form::text;
  const auto lsn = co_await running_->poster.post(std::move(channel), as, std::move(payload));
  if (!lsn) co_return lsn.error();
  const auto head = hub_.head();
  // Without the WAL positions move with the hub's own count, and the message has an index of its own still to come.
  if (!running_->tier.wal()) co_return head;
  co_return bus::position{head.epoch, *lsn, bus::position::end_of_commit};
}

// --- Plain NOTIFY

asio::awaitable<result<bus::position>> database_side::listen(std::string channel) {
  co_return co_await asio::co_spawn(executor_, listen_here(std::move(channel)), asio::use_awaitable);
}

asio::awaitable<result<bus::position>> database_side::listen_here(std::string channel) {
  const auto deadline = steady::now() + patience_for_listen;
  for (;;) {
    const auto heard = co_await running_->listener.listen(channel);
    if (heard) co_return hub_.head();
    if (heard.error().code != errc::unavailable || steady::now() >= deadline || stopped_) co_return heard.error();
    running_->changed.expires_at(deadline);
    boost::system::error_code woken;
    co_await running_->changed.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }
}

void database_side::unlisten(std::string channel) {
  asio::post(executor_, [this, channel = std::move(channel)] { running_->listener.unlisten(channel); });
}

void database_side::notified(const postgres::notification& n) {
  if (n.channel == post_channel && running_->tier.wal()) return;  // nobody but a forger speaks there now
  if (!notified_) {
    notified_ = std::make_shared<bus::batch>();
    asio::post(executor_, [this] { publish_notified(); });
  }
  metrics::add(metrics::counter::events_notify);
  if (n.channel != post_channel) {
    notified_->add(n.channel, bus::kind::message, bus::payload_form::text, n.payload, {}, now_micros());
    return;
  }
  const auto posted = parse_notify_message(n.payload);
  if (!posted) return log::warning("database", "a NOTIFY on {} is not one of ours and is dropped", post_channel);
  notified_->add(posted->channel, bus::kind::message, posted->form, posted->payload, {}, now_micros());
}

void database_side::publish_notified() {
  auto batch = std::exchange(notified_, nullptr);
  // The server's queue holds what is not read, so a full hub is waited for by the loops, which empty it within a turn.
  if (batch && !batch->empty() && !hub_.publish(std::move(batch)))
    log::warning("database", "notifications come faster than the gateway's loops take them");
}

void database_side::listener_lost(const error& why) {
  publish_notified();
  listening_.store(false);
  lost_at_ = alive_at_.value_or(hub_.head());
  const std::scoped_lock lock{guard_};
  listener_problem_ = why.text;
}

void database_side::listener_back() {
  listening_.store(true);
  {
    const std::scoped_lock lock{guard_};
    listener_problem_.clear();
  }
  running_->changed.cancel();
  running_->tier.look_again();
  metrics::add(metrics::counter::reconnects);
  metrics::add(metrics::counter::gaps_notify);
  const auto now = hub_.head();
  // In a new epoch the reset told of what was missed before it, and of nothing since.
  hub_.announce_gap(now.epoch == lost_at_.epoch ? lost_at_ : std::min(hub_.whole_since(), now), now, "notify", bus::channels::plain);
}

// --- Tables

error database_side::no_feeds() const {
  const auto tier = running_->tier.now();
  return {errc::unsupported,
          "feeds need the database's logical WAL, which this gateway does not read: " + tier.reason + ". To change that: " + tier.fix};
}

asio::awaitable<result<std::string>> database_side::feed_channel(std::string table) {
  if (!running_->tier.wal()) co_return no_feeds();
  if (auto known = running_->feeds->channel_of(table)) co_return std::move(*known);
  co_return co_await asio::co_spawn(executor_, find_feed_here(std::move(table)), asio::use_awaitable);
}

asio::awaitable<result<std::string>> database_side::find_feed_here(std::string table) {
  auto session = co_await running_->pool.acquire(statement_deadline);
  if (!session) co_return session.error();
  co_return co_await feeds::find_feed(**session, std::move(table));
}

asio::awaitable<result<std::unique_ptr<feeds::spool_reader>>> database_side::snapshot(std::string channel,
                                                                                      std::shared_ptr<const feeds::view> shown) {
  if (!running_->tier.wal()) co_return no_feeds();
  co_return co_await asio::co_spawn(executor_, running_->snapshots->open(std::move(channel), std::move(shown)), asio::use_awaitable);
}

asio::awaitable<result<std::shared_ptr<const feeds::view>>> database_side::open_view(std::string channel, feeds::view_request asked) {
  if (!running_->tier.wal()) co_return no_feeds();
  co_return co_await asio::co_spawn(executor_, open_view_here(std::move(channel), std::move(asked)), asio::use_awaitable);
}

asio::awaitable<result<std::shared_ptr<const feeds::view>>> database_side::open_view_here(std::string channel, feeds::view_request asked) {
  auto session = co_await running_->pool.acquire(statement_deadline);
  if (!session) co_return session.error();
  auto bound = co_await feeds::bind_view(**session, std::move(channel), std::move(asked));
  if (!bound) co_return bound.error();
  co_return running_->feeds->views().open(std::move(*bound), executor_);
}

// --- Streams

error database_side::no_streams() const {
  const auto tier = running_->tier.now();
  return {errc::unsupported, "streams need the database's logical WAL, which this gateway cannot read: " + tier.reason + ". " + tier.fix};
}

asio::awaitable<result<streams::page>> database_side::read_stream(std::string channel, bus::start from, std::size_t most) {
  if (!running_->tier.wal()) co_return error{errc::not_found, "this gateway cannot read the WAL, and so no streams"};
  co_return co_await asio::co_spawn(executor_, running_->store->read(std::move(channel), from, most), asio::use_awaitable);
}

asio::awaitable<result<bus::start>> database_side::consumer_start(std::string channel, std::string consumer) {
  if (!running_->tier.wal()) co_return no_streams();
  co_return co_await asio::co_spawn(executor_, running_->store->consumer_start(std::move(channel), std::move(consumer)),
                                    asio::use_awaitable);
}

asio::awaitable<result<>> database_side::ack(std::string channel, std::string consumer, std::string position) {
  if (!running_->tier.wal()) co_return no_streams();
  co_return co_await asio::co_spawn(executor_, running_->store->ack(std::move(channel), std::move(consumer), std::move(position)),
                                    asio::use_awaitable);
}

// --- State

bool database_side::ready() const { return running_ && listening_.load() && (!running_->reader || running_->reader->status().ready()); }

std::string database_side::problem() const {
  if (!running_) return "starting";
  if (running_->reader) {
    if (const auto status = running_->reader->status(); !status.ready())
      return status.problem.empty() ? std::string{to_text(status.state)} : status.problem;
  }
  const std::scoped_lock lock{guard_};
  return listener_problem_;
}

json::object database_side::status() const {
  json::object all;
  const auto tier = running_ ? running_->tier.now() : postgres::tier{};
  all["tier"] = {{"name", postgres::name(tier.transport)}, {"reason", tier.reason}, {"fix", tier.fix}};
  all["problem"] = problem();
  all["lag_ms"] = nullptr;
  if (!running_ || !running_->reader) return all;
  const auto reader = running_->reader->status();
  if (reader.reading()) all["lag_ms"] = static_cast<double>(metrics::value(metrics::gauge::lag_micros)) / 1000.0;
  all["stream_silent_s"] = reader.heard ? json::value(std::chrono::duration<double>(steady::now() - *reader.heard).count()) : json::value{};
  all["slot"] = {
      {"name", reader.slot}, {"permanent", reader.permanent}, {"retained_bytes", metrics::value(metrics::gauge::retained_wal_bytes)}};
  all["server_version"] = reader.server_version;
  all["reconnects"] = reader.reconnects;
  all["feeds_problem"] = reader.feeds_problem;
  json::array watched;
  for (const auto& t : running_->feeds->watched()) {
    json::value columns = nullptr;
    if (t.columns) columns = json::array(t.columns->begin(), t.columns->end());
    watched.push_back({{"table", t.schema + "." + t.name},
                       {"notify", t.notify.empty() ? json::value{} : json::value(t.notify)},
                       {"columns", std::move(columns)}});
  }
  all["watched"] = std::move(watched);
  json::array snapshots;
  for (const auto& s : running_->snapshots->under_way())
    snapshots.push_back({{"channel", s.channel},
                         {"filter", s.filter.empty() ? json::value{} : json::value(s.filter)},
                         {"rows", s.rows},
                         {"estimated", s.estimated < 0 ? json::value{} : json::value(s.estimated)},
                         {"readers", s.readers},
                         {"complete", s.complete}});
  all["snapshots"] = std::move(snapshots);
  all["streams"] = json::parse(*running_->recorder->summary());
  return all;
}

}  // namespace postbus::app
