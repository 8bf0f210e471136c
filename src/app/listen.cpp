#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "app/commands.hpp"
#include "app/stop_signals.hpp"
#include "app/terminal.hpp"
#include "base/clock.hpp"

namespace postbus::app {
namespace {

/** Lets the signals' thread end a listener while there is one. */
class stoppable {
public:
  void set(listener* target) {
    const std::lock_guard lock{guard_};
    target_ = target;
  }
  void stop() {
    const std::lock_guard lock{guard_};
    if (target_) return target_->stop();
    std::_Exit(exit_failed);  // still connecting, or done: nothing has been taken that could be lost
  }

private:
  std::mutex guard_;
  listener* target_{};
};

/** Positions are saved this often while events keep coming; with every pause in them too. */
constexpr std::chrono::seconds save_interval{1};

/** One line for people: time of day, channel, kind where it is not a message, payload. */
std::string line_of(const event& e, const terminal& on) {
  const auto time = e.at.size() >= 23 ? std::string_view{e.at}.substr(11, 12) : std::string_view{e.at};
  std::string out = on.paint(style::faint, time) + "  " + on.paint(style::name, visible(e.channel)) + "  ";
  if (e.kind != event_kind::message) out += on.paint(e.is_notice() ? style::warn : style::good, to_text(e.kind)) + "  ";
  return out + visible(e.payload);
}

bool flush_output() { return std::fflush(stdout) == 0 && std::ferror(stdout) == 0; }

exit_code tell_output_lost() { return tell(exit_failed, fmt::format("cannot write the output: {}", std::strerror(errno))); }

std::function<void(link_state, std::string_view)> reporter() {
  return [lost = false](link_state state, std::string_view why) mutable {
    if (state == link_state::lost && !lost) fmt::print(stderr, "postbus: {}; trying again\n", why);
    if (state == link_state::connected && lost) fmt::print(stderr, "postbus: connected to {} again\n", why);
    lost = state == link_state::lost;
  };
}

}  // namespace

int listen(const targets& at, const listen_command& options) {
  const auto gateway = gateway_of(at);
  if (!gateway) return tell_unattached(gateway.error());
  stoppable running;
  const stop_signals signals{[&] { running.stop(); }};
  const terminal on{stdout};
  std::uint64_t seen = 0;
  try {
    auto gate = connect_client(at, *gateway);
    std::map<std::string, std::string> printed;  // of a consumer, what is to be acknowledged
    const auto acknowledge = [&] {
      while (!printed.empty()) {
        try {
          gate.ack(printed.begin()->first, options.consumer, printed.begin()->second);
        } catch (const request_error& why) {
          if (why.code() != "invalid_position") throw;  // else positions began anew: a reset, and the same once more, is on its way
        }
        printed.erase(printed.begin());
      }
    };
    const auto acknowledge_if_there = [&] {
      try {
        acknowledge();
      } catch (const request_error& why) {
        if (!why.may_retry()) throw;  // else the gateway is away, as its listener says: again in a while
      }
    };
    auto from = gate.listen(options.channels, {.consumer = options.consumer,
                                               .after = options.from,
                                               .resume_file = options.resume_file,
                                               .save_by_itself = false,
                                               .on_link = reporter(),
                                               .where = options.where,
                                               .columns = options.columns,
                                               .maybe = options.maybe,
                                               .snapshot = options.snapshot});
    running.set(&from);
    auto saved = steady::now();
    if (on.is_terminal()) fmt::print(stderr, "{}\n", terminal{stderr}.paint(style::faint, "listening; Ctrl-C ends it"));
    while (!from.stopped() && (!options.count || seen < *options.count)) {
      if (!from.ready() || steady::now() - saved >= save_interval) {
        if (!flush_output()) return tell_output_lost();
        from.save();  // only now: what is printed must be out before its position is saved
        acknowledge_if_there();
        saved = steady::now();
      }
      const auto e = from.next(printed.empty() ? std::chrono::milliseconds{std::chrono::hours{1}} : save_interval);
      if (!e) continue;
      const auto line = options.json ? to_json(*e) : line_of(*e, on);
      if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::putchar('\n') == EOF) return tell_output_lost();
      if (!options.consumer.empty() && !e->is_notice()) printed.insert_or_assign(e->channel, e->position);
      if (!e->is_notice()) ++seen;
    }
    const bool written = flush_output();
    if (written) {
      from.save();
      acknowledge();
    }
    running.set(nullptr);
    return written ? exit_ok : tell_output_lost();
  } catch (const request_error& why) {
    running.set(nullptr);
    flush_output();
    return tell(why);
  }
}

int wait(const targets& at, const wait_options& options) {
  const auto gateway = gateway_of(at);
  if (!gateway) return tell_unattached(gateway.error());
  stoppable running;
  const stop_signals signals{[&] { running.stop(); }};
  const auto deadline = options.timeout ? std::optional{steady::now() + *options.timeout} : std::nullopt;
  try {
    auto from = connect_client(at, *gateway).listen({options.channel}, {.after = options.from, .on_link = reporter()});
    running.set(&from);
    bool came = false;
    while (!came && !from.stopped()) {
      const auto left = deadline ? std::chrono::ceil<std::chrono::milliseconds>(*deadline - steady::now())
                                 : std::chrono::milliseconds{std::chrono::hours{1}};
      const auto e = from.next(std::max(left, std::chrono::milliseconds{0}));
      if (e && e->is_notice() && !options.json) {
        fmt::print(stderr, "postbus: {}: {}\n", to_text(e->kind), visible(e->payload));
      } else if (e) {
        fmt::print("{}\n", options.json ? to_json(*e) : terminal{stdout}.is_terminal() ? visible(e->payload) : e->payload);
        came = !e->is_notice();
      } else if (deadline && steady::now() >= *deadline) {
        running.set(nullptr);
        return tell(exit_timed_out, fmt::format("nothing was posted to {} in time", options.channel));
      }
    }
    running.set(nullptr);
    if (!flush_output()) return tell_output_lost();
    return came ? exit_ok : exit_failed;
  } catch (const request_error& why) {
    running.set(nullptr);
    return tell(why);
  }
}

}  // namespace postbus::app
