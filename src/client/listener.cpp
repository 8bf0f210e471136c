#include "client/listener.hpp"

#include <fmt/format.h>

#include "bus/channel.hpp"
#include "bus/hub.hpp"
#include "client/failure.hpp"

namespace postbus {
namespace {

constexpr std::chrono::seconds save_interval{1}, confirm_patience{30}, goodbye_patience{1};

std::size_t size_of(const event& e) { return sizeof e + e.payload.size() + e.channel.size(); }

std::uint64_t random_seed() { return std::random_device{}() | static_cast<std::uint64_t>(std::random_device{}()) << 32; }

remote::channel_positions load(const std::optional<remote::resume_file>& file) {
  if (!file) return {};
  auto known = file->load();
  if (!known) remote::raise(known.error());
  return std::move(*known);
}

}  // namespace

listener::impl::impl(remote::link_settings target, client_options client_how, std::vector<std::string> channels, listen_options listen_how)
    : to{std::move(target)},
      how{std::move(client_how)},
      options{std::move(listen_how)},
      file{options.resume_file.empty() ? std::nullopt : std::optional{remote::resume_file{options.resume_file}}},
      session{channels,        options.after, load(file), random_seed(), {options.where, options.columns, options.maybe, options.snapshot},
              options.consumer} {
  if (channels.empty()) remote::raise({errc::invalid_argument, "name at least one channel to listen on"});
  for (const auto& channel : channels)
    if (const auto fine = bus::check_channel(channel); !fine) remote::raise(fine.error());
  if (!options.consumer.empty() && (!options.after.empty() || file))
    remote::raise({errc::invalid_argument, "a consumer goes on where it acknowledged: give no position and no resume file"});
  if (!options.consumer.empty() && (!options.where.empty() || !options.columns.empty() || options.maybe || options.snapshot))
    remote::raise(
        {errc::invalid_argument,
         "a consumer reads a stream, which has no rows to filter or to begin with: give no `where`, `columns`, `maybe` or `snapshot`"});
  if (const auto from = bus::parse_start(options.after); !from) remote::raise(from.error());
  // Channels of earlier runs that are not listened on now keep their line in the file.
  handled = load(file);
  thread = std::thread{[this] { run(); }};
}

listener::impl::~impl() {
  stop();
  thread.join();
  if (!options.save_by_itself) return;
  try {
    save();  // without settling: whether the event given out last was handled is not known
  } catch (const request_error&) {
    // The events after the last save repeat in the next run: that is what the file promises.
  }
}

void listener::impl::stop() {
  {
    const std::lock_guard lock{guard};
    stopping = true;
  }
  wake.signal();
  changed.notify_all();
}

void listener::impl::tell(link_state state, std::string_view why) {
  if (options.on_link) options.on_link(state, why);
}

// ---------------------------------------------------------------------------------------------- the consumer's side

void listener::impl::settle() {
  if (in_hand) {
    if (!in_hand->second.empty()) {
      handled.insert_or_assign(std::move(in_hand->first), std::move(in_hand->second));
      dirty = true;
    } else {
      dirty |= handled.erase(in_hand->first) > 0;  // a snapshot has begun, and does not count before it is complete
    }
    in_hand.reset();
  }
  const std::lock_guard lock{guard};
  if (!std::exchange(starts_moved, false)) return;
  for (const auto& [channel, at] : starts) dirty |= handled.emplace(channel, at).second;
}

std::optional<event> listener::impl::next(std::chrono::milliseconds timeout) {
  const auto deadline = steady::now() + timeout;
  for (;;) {
    settle();
    std::unique_lock lock{guard};
    if (dirty && options.save_by_itself && (queue.empty() || steady::now() - saved >= save_interval)) {
      lock.unlock();
      save();
      continue;
    }
    if (!queue.empty()) {
      auto out = std::move(queue.front());
      queue.pop_front();
      queued_bytes -= size_of(out);
      in_hand.emplace(out.channel, out.position);
      lock.unlock();
      changed.notify_all();  // there is room again
      return out;
    }
    if (stopping) return std::nullopt;
    if (ended) {
      if (failure) remote::raise(*failure);
      return std::nullopt;
    }
    const bool woken = changed.wait_until(lock, deadline, [&] { return stopping || ended || starts_moved || !queue.empty(); });
    if (!woken) return std::nullopt;
  }
}

void listener::impl::save() {
  if (file && dirty) {
    if (const auto done = file->save(handled); !done) remote::raise(done.error());
  }
  dirty = false;
  saved = steady::now();
}

void listener::impl::wait_confirmed() {
  if (options.confirm_timeout.count() <= 0) return;
  std::unique_lock lock{guard};
  // Where what some channels are behind fills the queue, the other confirmations come when somebody takes from it.
  const auto fixed = [&] { return confirmed || (whole && !has_room()); };
  changed.wait_for(lock, options.confirm_timeout, [&] { return fixed() || ended || stopping; });
  if (failure) remote::raise(*failure);
  if (fixed() || stopping) return;
  auto why = trouble;
  if (why.text.empty()) why = {errc::timed_out, fmt::format("{} did not confirm in time", to.url.text())};
  remote::raise(why);
}

// ---------------------------------------------------------------------------------------------- the listener's thread

bool listener::impl::has_room() const { return queue.size() < options.queue_events && queued_bytes < options.queue_bytes; }

bool listener::impl::wait_for_room() {
  std::unique_lock lock{guard};
  // While listen() waits for the channels that begin now, nobody takes from the queue.
  changed.wait(lock, [&] { return stopping || has_room() || (!whole && options.confirm_timeout.count() > 0); });
  return !stopping;
}

void listener::impl::note_progress(bool up) {
  const std::lock_guard lock{guard};
  whole = true;
  starts = session.starts();
  starts_moved = true;
  if (!up) return;
  confirmed = true;
  trouble = {};
}

remote::link_end listener::impl::hold(remote::websocket_link& link) {
  using what = remote::websocket_link::incoming::what;
  bool up = false, begun = false;
  for (;;) {
    if (session.whole() && (!begun || (session.confirmed() && !up))) {
      begun = true;
      up = session.confirmed();
      note_progress(up);
      if (up) tell(link_state::connected, to.url.text());
      changed.notify_all();
    }
    if (!wait_for_room()) break;
    auto incoming = link.next(steady::now() + (up ? std::chrono::seconds{3600} : confirm_patience));
    if (incoming.is == what::ended) return std::move(incoming.end);
    if (incoming.is == what::woken) break;
    if (incoming.is == what::timed_out) {
      if (up) continue;
      return {.why = {errc::timed_out, fmt::format("{} did not confirm in time", to.url.text())}};
    }
    auto received = session.received(incoming.text);
    if (!received) {
      link.close(1000, {}, steady::now() + goodbye_patience);
      return {.why = received.error()};
    }
    if (auto& arrived = *received) {
      const std::lock_guard lock{guard};
      queued_bytes += size_of(*arrived);
      queue.push_back(std::move(*arrived));
    }
    changed.notify_all();
    if (session.begins_anew()) {
      link.close(1000, {}, steady::now() + goodbye_patience);
      return {.why = {errc::unavailable, "positions began anew, and the consumer goes on where it was"}};
    }
    for (const auto& text : session.due())
      if (const auto sent = link.send(text, steady::now() + how.request_timeout); !sent) return {.why = sent.error()};
  }
  link.close(1000, {}, steady::now() + goodbye_patience);
  return {.why = {errc::io, "stopped"}};
}

remote::link_end listener::impl::talk() {
  remote::link_end end;
  const auto deadline = steady::now() + how.connect_timeout;
  auto link = remote::websocket_link::open(to, deadline, &wake, end);
  if (!link) {
    end.why = link.error();
    return end;
  }
  for (const auto& text : session.opened())
    if (const auto sent = link->send(text, steady::now() + how.request_timeout); !sent) return {.why = sent.error()};
  return hold(*link);
}

void listener::impl::run() {
  for (;;) {
    const auto end = talk();
    const auto pause = session.ended(end);
    std::unique_lock lock{guard};
    trouble = end.why;
    if (stopping || !pause) break;
    lock.unlock();
    tell(link_state::lost, end.why.text);
    lock.lock();
    if (changed.wait_for(lock, *pause, [&] { return stopping; })) break;
  }
  std::string why;
  {
    const std::lock_guard lock{guard};
    ended = true;
    if (!stopping) failure = trouble;
    if (failure) why = failure->text;
  }
  changed.notify_all();
  tell(link_state::ended, why);
}

// ---------------------------------------------------------------------------------------------- the public face

listener::listener(std::unique_ptr<impl> made) : impl_{std::move(made)} {}
listener::listener(listener&&) noexcept = default;
listener& listener::operator=(listener&&) noexcept = default;
listener::~listener() = default;

std::optional<event> listener::next(std::chrono::milliseconds timeout) & { return impl_->next(timeout); }
bool listener::ready() const& {
  const std::lock_guard lock{impl_->guard};
  return !impl_->queue.empty() || impl_->stopping || impl_->ended;
}
void listener::stop() & { impl_->stop(); }
bool listener::stopped() const& {
  const std::lock_guard lock{impl_->guard};
  return impl_->stopping;
}
void listener::save() & {
  impl_->settle();
  impl_->save();
}

}  // namespace postbus
