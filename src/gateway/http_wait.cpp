// Requests that wait for events: a long poll, or /wait. What history has is the answer at once; else the connection is a listener
// until something comes or the time is up. Where history does not reach back, a stream's tables are read first.
#include <algorithm>
#include <optional>
#include <utility>

#include "base/metrics.hpp"
#include "gateway/catch_up.hpp"
#include "gateway/http_session.hpp"

namespace postbus::gateway {
namespace {

using namespace std::chrono_literals;

/** Payload bytes of an answer, beside one event. */
constexpr std::size_t most_bytes = 1u << 20;

}  // namespace

/** A request that waits: a listener while nothing has come. */
class http_session::waiter final : public bus::listener {
public:
  waiter(http_session& s, wait_for what) : owner_{s}, what{std::move(what)} {}
  ~waiter() override { leave(); }

  /**
   * Takes a portion of what history has after `from`, and behind the last one stays subscribed; else `replaying` says where to
   * go on. False, and nothing done, where a stream's tables may have more.
   */
  bool enter(const bus::progress& from) {
    auto& shard = owner_.home().shard();
    auto given = shard.subscribe(*this, what.asked.topic(), from, what.asked.channel, {.events = what.most_events, .bytes = most_bytes});
    if (has_tables && may_be_kept(what.asked.channel, from, given)) {
      if (given.end) shard.unsubscribe(*this, what.asked.topic());
      return false;
    }
    if (given.end) {
      subscribed_ = true;
      metrics::adjust(metrics::gauge::subscriptions, 1);
    }
    complete_replay(what.asked, from, given);
    next = given.at;
    for (auto& e : given.events) take(std::move(e));
    if (given.end && what.asked.view && what.asked.view->ended()) done = true;
    if (!given.end && !done) replaying = given.next;
    if (!done) owner_.arm(std::max(0ms, std::chrono::ceil<std::chrono::milliseconds>(until - steady::now())));
    return true;
  }
  void leave() {
    if (!std::exchange(subscribed_, false)) return;
    owner_.home().shard().unsubscribe(*this, what.asked.topic());
    metrics::adjust(metrics::gauge::subscriptions, -1);
  }
  void on_event(bus::topic&, const bus::event_ref& e) override { take(e); }

  void take(bus::event_ref e) {
    if (e->kind == bus::kind::ended) {
      done = true;
      return owner_.home().flush_later(owner_);
    }
    if (events.size() >= what.most_events || bytes_ > most_bytes) return;  // the rest comes with the next request, from history
    next = e->at;
    bytes_ += e->payload.size();
    done = done || what.enough(*e);
    events.push_back(std::move(e));
    if (done) owner_.home().flush_later(owner_);
  }

private:
  http_session& owner_;
  bool subscribed_{};
  std::size_t bytes_{};

public:
  wait_for what;
  std::vector<bus::event_ref> events;
  steady::time_point until;  ///< as long as the client gave
  bus::position next;        ///< {}: not known yet
  bool done{};
  bool has_tables{true};  ///< for all that is known
  std::optional<bus::progress> replaying;
  std::shared_ptr<room_signal> room;  ///< while a stream's tables are read
};

// Here, because the compiler must know the waiter for them.
http_session::http_session(loop& home, socket&& s) : session{home, std::move(s), nullptr}, body_{home} {}
http_session::~http_session() = default;

void http_session::recheck(const token* mine) {
  if (state_ != state::waiting || who() == nullptr) return;
  if (mine != nullptr && mine->may(right::listen, waiter_->what.asked.channel)) return;
  stop_waiting();
  fail(mine == nullptr ? error{errc::unauthorised, "the token was revoked"}
                       : error{errc::forbidden, "the token may no longer listen to this channel"});
}

bool http_session::wait_is_over() const { return state_ == state::waiting && waiter_ && waiter_->done; }

void http_session::wait(wait_for what) {
  waiter_ = std::make_unique<waiter>(*this, std::move(what));
  auto asked = std::move(waiter_->what.asked);
  waiter_->what.asked.channel = asked.channel;
  prepare(std::move(asked), [this](listen_request ready) {
    waiter_->what.asked = std::move(ready);
    begin_waiting();
  });
}

void http_session::begin_waiting() {
  set_state(state::waiting);
  waiter_->until = steady::now() + waiter_->what.at_most;
  take_history(waiter_->what.asked.from);
  if (home().shared().draining.load()) finish_wait();
}

void http_session::take_history(const bus::progress& from) {
  if (!waiter_->enter(from)) return read_tables(from);
  if (!waiter_->replaying) return;
  // Nothing of this portion was for the client; the others' turn.
  home().post([weak = handle()] {
    auto* const self = static_cast<http_session*>(*weak);
    if (self == nullptr || self->closed() || !self->waiter_ || !self->waiter_->replaying) return;
    self->take_history(*std::exchange(self->waiter_->replaying, std::nullopt));
  });
}

void http_session::read_tables(const bus::progress& from) {
  arm(std::max(waiter_->what.at_most, home().limits().tables_deadline));  // who asked for no waiting asked for what is kept all the same
  waiter_->room = std::make_shared<room_signal>(home().context().get_executor());
  const auto living = [weak = handle(), room = waiter_->room]() -> waiter* {
    auto* const self = static_cast<http_session*>(*weak);
    return self == nullptr || self->closed() || !self->waiter_ || self->waiter_->room != room || self->waiter_->done ? nullptr
                                                                                                                     : self->waiter_.get();
  };
  home().spawn("replay", catch_up(home(), waiter_->what.asked.channel, start_of(from),
                                  {.alive = [living] { return living() != nullptr; },
                                   .has_room = [] { return true; },  // a page is a whole answer
                                   .room = waiter_->room,
                                   .take =
                                       [living](const streams::page& page) {
                                         auto& w = *living();
                                         w.next = page.upto;
                                         for (const auto* const e : page.events->events()) w.take({page.events, e});
                                       },
                                   .join =
                                       [living, this](const bus::position& at) {
                                         auto& w = *living();  // it may be done, and so not living, behind this
                                         if (!w.enter(at)) return false;
                                         if (w.replaying) take_history(*std::exchange(w.replaying, std::nullopt));
                                         return true;
                                       },
                                   .not_kept =
                                       [living, this, from] {
                                         living()->has_tables = false;
                                         take_history(from);
                                       },
                                   .failed =
                                       [this](const error& why) {
                                         stop_waiting();
                                         fail(why);
                                       },
                                   .most = waiter_->what.most_events}));
}

void http_session::stop_waiting() {
  waiter_.reset();
  set_state(state::busy);
}

void http_session::finish_wait() {
  if (const auto view = waiter_->what.asked.view; view && view->ended() && waiter_->events.empty()) {
    stop_waiting();
    return fail(view->why());
  }
  if (waiter_->next == bus::position{}) {  // it is not known what the client has missed, nor where it would go on
    stop_waiting();
    return fail({errc::unavailable, "what the stream keeps could not be read in time; come back in a moment"});
  }
  auto answer = waiter_->what.answer(waiter_->events, waiter_->next);
  stop_waiting();
  respond(std::move(answer));
}

}  // namespace postbus::gateway
