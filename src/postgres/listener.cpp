// The listening session. listen_policy decides, this carries out:
//
// 1. The loop in run() asks the policy what is next: open a session, run a command, or wait.
// 2. Requests (listen, unlisten) only change the policy and wake a waiting loop. A thousand requests in one turn are one
//    command, because the loop comes to its turn after them.
// 3. A notification may arrive within any call on the session; it is handed on at once, unless its channel has been
//    dropped. One that comes between the LISTEN's commit and our reading of it is handed on too: its channel is wanted.
// 4. Any failure ends the session: requests in progress fail, the policy sets the time of the next attempt. Whatever was
//    wanted is LISTENed anew with the next session, and only then is the end of the outage told.
#include "postgres/listener.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <map>
#include <random>
#include <utility>

#include "base/error_format.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/metrics.hpp"
#include "postgres/suspend.hpp"

namespace postbus::postgres {

struct listener::impl {
  impl(asio::any_io_executor executor, listener_options given, listener_events called)
      : options{std::move(given)}, events{std::move(called)}, policy{options.limits, std::random_device{}()}, pause{executor} {}

  struct request {
    std::string channel;
    resumer<result<>> resume;
  };

  asio::awaitable<void> run() {
    while (!stopping) {
      const auto action = policy.next(steady::now());
      if (const auto* wait = std::get_if<listen_policy::wait>(&action))
        co_await wait_until(wait->until);
      else if (const auto* command = std::get_if<listen_policy::run>(&action))
        co_await carry_out(command->sql);
      else
        co_await open();
      metrics::set(metrics::gauge::listening, static_cast<std::int64_t>(policy.listening()));
      if (!stopping && policy.take_end_of_outage()) {
        log::info("listener", "listening again on {} channels", policy.listening());
        if (events.on_back) events.on_back();
      }
    }
    session.reset();
    fail_requests({errc::unavailable, "the listener has stopped"});
    metrics::set(metrics::gauge::listening, 0);
  }

  asio::awaitable<void> open() {
    auto opened = co_await connection::open(options.session);
    if (stopping) co_return;
    if (!opened) co_return lost(opened.error());
    session = std::move(*opened);
    session->on_notification([this](const notification& n) { take(n); });
    policy.opened(steady::now());
  }

  asio::awaitable<void> carry_out(const std::string& sql) {
    const auto done = co_await session->execute(sql, options.limits.answer);
    if (stopping) co_return;
    if (!done) co_return lost(done.error());
    policy.ran(steady::now());
    if (events.on_alive) events.on_alive();
    while (!requests.empty() && requests.begin()->first <= policy.settled()) {
      auto one = requests.extract(requests.begin());
      one.mapped().resume({});
    }
  }

  asio::awaitable<void> wait_until(steady::time_point until) {
    waiting = true;
    if (session) {
      const auto arrived = co_await session->wait_notifications(until - steady::now());
      waiting = false;
      if (!stopping && !arrived && arrived.error().code != errc::timed_out) lost(arrived.error());
    } else {
      pause.expires_at(until);
      co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
      waiting = false;
    }
  }

  void wake() {
    if (waiting && session) session->wake();
  }

  void take(const notification& n) {
    policy.heard(steady::now());
    if (!policy.is_wanted(n.channel)) return;
    if (events.on_notification) events.on_notification(n);
  }

  void lost(const error& reason) {
    session.reset();
    fail_requests({errc::unavailable, reason.text, reason.detail});
    if (!policy.lost(steady::now())) return;
    log::warning("listener", "not listening: {}", reason);
    if (events.on_lost) events.on_lost(reason);
  }

  void fail_requests(const error& reason) {
    for (auto& [ticket, one] : std::exchange(requests, {})) {
      policy.unlisten(one.channel, steady::now());
      one.resume(reason);
    }
  }

  listener_options options;
  listener_events events;
  listen_policy policy;
  asio::steady_timer pause;
  std::optional<connection> session;
  std::multimap<listen_policy::ticket, request> requests;
  bool waiting{};
  bool stopping{};
};

listener::listener(asio::any_io_executor executor, listener_options options, listener_events events)
    : impl_{std::make_unique<impl>(std::move(executor), std::move(options), std::move(events))} {}
listener::~listener() = default;

asio::awaitable<void> listener::run() { return impl_->run(); }

void listener::stop() {
  impl_->stopping = true;
  impl_->pause.cancel();
  if (impl_->session) impl_->session->close();
}

asio::awaitable<result<>> listener::listen(std::string channel) {
  if (channel.empty() || channel.size() > max_listen_bytes || channel.contains('\0') || !is_utf8(channel))
    co_return error{errc::invalid_channel, "LISTEN takes names of 1 to 63 bytes of UTF-8"};
  if (impl_->stopping) co_return error{errc::unavailable, "the listener has stopped"};
  const auto ticket = impl_->policy.listen(channel);
  if (!ticket) co_return error{errc::unavailable, "the database cannot be reached at the moment"};
  if (*ticket == 0) co_return result<>{};
  impl_->wake();
  auto keep = [requests = &impl_->requests, number = *ticket, name = std::move(channel)](resumer<result<>> resume) mutable {
    requests->emplace(number, impl::request{std::move(name), std::move(resume)});
  };
  co_return co_await suspend<result<>>(std::move(keep));
}

void listener::unlisten(std::string_view channel) {
  impl_->policy.unlisten(channel, steady::now());
  impl_->wake();
}

bool listener::connected() const { return impl_->policy.connected(); }
std::size_t listener::listening() const { return impl_->policy.listening(); }
std::optional<std::uint64_t> listener::listening_generation(std::string_view channel) const { return impl_->policy.generation(channel); }

std::vector<listener::channel_state> listener::channels() const {
  std::vector<channel_state> all;
  for (const auto& [name, e] : impl_->policy.channels())
    all.push_back({name, e.listeners, e.generation ? std::optional{e.since} : std::nullopt});
  return all;
}

}  // namespace postbus::postgres
