#include "gateway/listening.hpp"

#include "base/metrics.hpp"
#include "bus/channel.hpp"
#include "gateway/loop.hpp"

namespace postbus::gateway {
namespace {

/** A position further ahead than the stream comes within this time belongs to another database or was made up. */
constexpr std::chrono::seconds ahead_deadline{10};

/** True while `from` cannot be answered: it has not been reached, or (no epoch yet) the database never was. */
bool lies_ahead(const bus::hub& hub, const bus::start& from) {
  const auto head = hub.head();
  if (head.epoch == 0) return true;
  const auto* const after = std::get_if<bus::position>(&from);
  if (after == nullptr || after->epoch != head.epoch) return false;
  return after->from_notify() ? after->lsn > head.lsn : *after > head;
}

}  // namespace

plain_lease::~plain_lease() {
  if (from_ != nullptr) from_->give_back(channel_);
}

void listening::prepare(listen_request asked, then done) {
  if (!asked.consumer.empty()) return home_.spawn("consumer", place_consumer(home_, std::move(asked), std::move(done)));
  if (lies_ahead(home_.shared().hub, asked.from))
    ahead_.push_back({std::move(asked), std::move(done), steady::now() + ahead_deadline});
  else
    prepare_plain(std::move(asked), std::move(done));
}

boost::asio::awaitable<void> listening::place_consumer(loop& home, listen_request asked, then done) {
  const auto start = co_await home.shared().behind.consumer_start(asked.channel, std::exchange(asked.consumer, {}));
  if (!start) co_return done(start.error());
  asked.from = *start;
  home.listening().prepare(std::move(asked), std::move(done));
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
    if (home_.shared().hub.head().epoch == 0)
      a.done(error{errc::unavailable, "the database has not been reached yet; come back in a moment"});
    else if (lies_ahead(home_.shared().hub, a.asked.from))
      a.done(error{errc::invalid_position, "the position lies ahead of this database: it is not one that Postbus gave out here"});
    else
      prepare_plain(std::move(a.asked), std::move(a.done));
  }
}

void listening::prepare_plain(listen_request asked, then done) {
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
  auto& note = alone->add(asked.channel, bus::kind::gap, bus::payload_form::json, payload, since, now_micros());
  given.events.insert(given.events.begin(), {alone, &note});
}

}  // namespace postbus::gateway
