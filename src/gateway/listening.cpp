#include "gateway/listening.hpp"

#include "base/metrics.hpp"
#include "bus/channel.hpp"
#include "feeds/feed_name.hpp"
#include "gateway/authorise.hpp"
#include "gateway/loop.hpp"

namespace postbus::gateway {
namespace {

using feeds::feed_prefix;

/** A position further ahead than the stream comes within this time belongs to another database or was made up. */
constexpr std::chrono::seconds ahead_deadline{10};
/** A restarted gateway reads a full window within this time; an EventSource that is refused meanwhile never comes back. */
constexpr std::chrono::seconds catch_up_deadline{30};

/** True while `from` cannot be answered: it has not been reached, or the hub does not serve yet. */
bool lies_ahead(const bus::hub& hub, const bus::start& from) {
  const auto head = hub.head();
  if (!hub.serving()) return true;
  const auto* const after = std::get_if<bus::position>(&from);
  if (after == nullptr || after->epoch != head.epoch) return false;
  return after->from_notify() ? after->lsn > head.lsn : *after > head;
}

}  // namespace

plain_lease::~plain_lease() {
  if (from_ != nullptr) from_->give_back(channel_);
}

void listening::prepare(listen_request asked, const identity* who, then done) {
  if (who != nullptr && asked.channel.starts_with(feed_prefix)) asked.who = std::make_unique<identity>(*who);
  wait_for_start(std::move(asked), std::move(done));
}

void listening::wait_for_start(listen_request asked, then done) {
  if (!asked.consumer.empty()) return home_.spawn("consumer", place_consumer(home_, std::move(asked), std::move(done)));
  const auto& hub = home_.shared().hub;
  if (lies_ahead(hub, asked.from))
    ahead_.push_back({std::move(asked), std::move(done), steady::now() + (hub.serving() ? ahead_deadline : catch_up_deadline)});
  else
    prepare_named(std::move(asked), std::move(done));
}

boost::asio::awaitable<void> listening::place_consumer(loop& home, listen_request asked, then done) {
  const auto start = co_await home.shared().behind.consumer_start(asked.channel, std::exchange(asked.consumer, {}));
  if (!start) co_return done(start.error());
  asked.from = *start;
  home.listening().wait_for_start(std::move(asked), std::move(done));
}

void listening::turn() {
  if (ahead_.empty()) return;
  const auto now = steady::now();
  std::vector<ahead> ready;
  std::erase_if(ahead_, [&](ahead& a) {
    if (now < a.deadline && lies_ahead(home_.shared().hub, a.asked.from)) return false;
    ready.push_back(std::move(a));
    return true;
  });
  for (auto& a : ready) {
    if (!home_.shared().hub.serving())
      a.done(error{errc::unavailable, "the gateway has just started and has not caught up with the database yet; come back in a moment"});
    else if (lies_ahead(home_.shared().hub, a.asked.from))
      a.done(error{errc::invalid_position, "the position lies ahead of this database: it is not one that Postbus gave out here"});
    else
      prepare_named(std::move(a.asked), std::move(a.done));
  }
}

void listening::prepare_named(listen_request asked, then done) {
  if (asked.channel.starts_with(feed_prefix)) return home_.spawn("feed", check_feed(std::move(asked), std::move(done)));
  prepare_plain(std::move(asked), std::move(done));
}

/**
 * Nothing would ever come on the channel of a table that nobody watches, nor on a name that is not a feed's. Who resumes is
 * given what history has of a table that was watched; a name without a schema never was a feed's.
 */
boost::asio::awaitable<void> listening::check_feed(listen_request asked, then done) {
  const auto table = asked.channel.substr(feed_prefix.size());
  const auto found = co_await home_.shared().behind.feed_channel(table);
  const auto who = std::move(asked.who);
  const bool is_feed = found && *found == asked.channel;
  const bool resumes = std::holds_alternative<bus::position>(asked.from) && table.contains('.');
  if (is_feed || (resumes && (found || found.error().code != errc::unsupported)))
    co_return prepare_plain(std::move(asked), std::move(done));
  if (!found) co_return done(found.error());
  // Whom the table's channel is closed to learns nothing of the table.
  done(permits(home_, who.get(), right::listen, *found) ? feeds::watched_as(table, *found) : feeds::not_watched(table));
}

void listening::prepare_plain(listen_request asked, then done) {
  if (asked.filter) return home_.spawn("filtered feed", open_view(std::move(asked), std::move(done)));
  if (asked.snapshot && std::holds_alternative<bus::from_now>(asked.from))
    return home_.spawn("snapshot", open_rows(std::move(asked), std::move(done)));
  if (!bus::is_plain(asked.channel)) return done(std::move(asked));
  auto& plain = plain_[asked.channel];
  if (plain.open) {
    ++plain.leases;
    asked.plain = plain_lease{*this, asked.channel, plain.since};
    return done(std::move(asked));
  }
  auto channel = asked.channel;
  plain.waiting.emplace_back(std::move(asked), std::move(done));
  if (plain.waiting.size() == 1) home_.spawn("LISTEN", open(std::move(channel)));
}

boost::asio::awaitable<void> listening::open_view(listen_request asked, then done) {
  auto opened = co_await home_.shared().behind.open_view(asked.channel, std::move(*asked.filter));
  if (!opened) co_return done(opened.error());
  asked.filter.reset();
  asked.view = std::move(*opened);
  prepare_plain(std::move(asked), std::move(done));
}

boost::asio::awaitable<void> listening::open_rows(listen_request asked, then done) {
  auto opened = co_await home_.shared().behind.snapshot(asked.channel, asked.view);
  if (!opened) co_return done(opened.error());
  asked.rows = std::move(*opened);
  done(std::move(asked));
}

boost::asio::awaitable<void> listening::open(std::string channel) {
  const auto since = co_await home_.shared().behind.listen(channel);
  auto waiting = std::exchange(plain_[channel].waiting, {});
  if (since) {
    auto& plain = plain_[channel];
    plain.open = true;
    plain.since = *since;
    plain.leases = waiting.size() + 1;  // one of our own until all have been told
    for (auto& [asked, done] : waiting) {
      asked.plain = plain_lease{*this, channel, *since};
      done(std::move(asked));
    }
    give_back(channel);
  } else {
    plain_.erase(channel);
    for (auto& [asked, done] : waiting) done(since.error());
  }
}

void listening::give_back(const std::string& channel) {
  const auto found = plain_.find(channel);
  if (--found->second.leases != 0) return;
  home_.shared().behind.unlisten(channel);
  plain_.erase(found);
}

result<> check_snapshot(std::string_view channel, const bus::start& from, bool wanted) {
  if (!wanted) return {};
  if (!channel.starts_with(feed_prefix)) return error{errc::invalid_argument, "only a table's feed has rows to begin with"};
  if (std::holds_alternative<bus::from_beginning>(from))
    return error{errc::invalid_argument,
                 "a snapshot begins with the rows as they are now: leave `after` out, or give the position of an event to resume from"};
  return {};
}

result<> check_consumer(std::string_view channel, std::string_view consumer) {
  if (!bus::check_channel(consumer))  // the same rule as postbus.ack's
    return error{errc::invalid_argument, "a consumer's name has 1 to 255 bytes and no control characters"};
  if (bus::is_reserved(channel))
    return error{errc::not_found,
                 "the channel '" + std::string{channel} +
                     "' is not a stream, which a consumer needs; remember the position of the last event and resume after it"};
  return {};
}

void complete_replay(const listen_request& asked, const bus::progress& from, bus::replay& given) {
  if (asked.view) given.events = feeds::replay_through(*asked.view, given.events);
  if (from.seq == 0) add_missed_notifications(asked, given);
}

void add_missed_notifications(const listen_request& asked, bus::replay& given) {
  const auto* const after = std::get_if<bus::position>(&asked.from);
  if (!asked.plain || after == nullptr || !after->from_notify()) return;
  const auto& since = asked.plain.since();
  if (after->epoch != since.epoch || *after >= since) return;
  for (const auto& e : given.events)
    if (e->kind == bus::kind::gap || e->kind == bus::kind::reset) return;  // told already
  metrics::add(metrics::counter::gaps_notify);
  std::string payload = R"({"from":")";
  append_text(payload, *after);
  payload += R"(","to":")";
  append_text(payload, since);
  payload += R"(","reason":"notify"})";
  auto alone = std::make_shared<bus::batch>();
  // The gap is told first: resuming from it must give what follows, which may lie before its end.
  const auto at = given.events.empty() || given.events.front()->at > since ? since : *after;
  auto& note = alone->add(asked.channel, bus::kind::gap, bus::payload_form::json, payload, at, now_micros());
  given.events.insert(given.events.begin(), {alone, &note});
}

}  // namespace postbus::gateway
