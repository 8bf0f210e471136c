#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "client/resume_file.hpp"
#include "postbus/event.hpp"

namespace postbus::remote {

/** How a connection ended, or why there was none. */
struct link_end {
  int http_status{};  ///< the handshake was refused with it; 0: not by HTTP
  int close_code{};   ///< the WebSocket was closed with it; 0: without a close frame
  error why;
};

/** What is asked of every channel beside its name; see listen_options. */
struct listen_filter {
  std::string where{};
  std::vector<std::string> columns{};
  bool maybe{};
  bool snapshot{};
};

/**
 * The policy of one listener, without I/O and without a clock: which channels to subscribe from where, what each frame
 * means, and whether and when to come back after the connection has ended. Driven by listener.cpp:
 *
 *   connect → opened() gives the texts to send → received() for each frame, and due() for what is to be sent then → ended()
 *   gives the pause before the next connect, or nothing: the listener has ended for good.
 *
 * Where a channel is to begin is known, or it begins now: then only its confirmation fixes the place, and until that has come
 * what is posted may be missed. So those are asked for alone at first; what the others are behind would stand before their confirmations.
 *
 * Invariants: a channel is asked for after the last event of it that was received, so that reconnecting repeats nothing;
 * a confirmation moves the position of a channel that begins now, and no other's: the events those were asked for come after it.
 */
class listen_session {
public:
  static constexpr std::chrono::milliseconds first_pause{100}, longest_pause{10'000}, drain_spread{1'000};

  /** `after` is "", "now", "beginning" or a position; `known` positions win over it, channel by channel. */
  listen_session(std::vector<std::string> channels, std::string after, channel_positions known, std::uint64_t seed, listen_filter of = {},
                 std::string consumer = {});

  /** A WebSocket is open: the text frames to send. */
  std::vector<std::string> opened();
  /** A text frame arrived: the event to deliver, if it carries one. After an error call ended() with it and close. */
  result<std::optional<event>> received(std::string_view frame);
  /** The texts to send now, beside what opened() gave. */
  std::vector<std::string> due();
  /** Nothing that is posted from here on is missed: each channel that begins now is confirmed. */
  bool whole() const { return up_ && now_ == 0; }
  /** Positions began anew, and the gateway knows where this consumer is among them: close and come back. */
  bool begins_anew() const { return begins_anew_; }
  /** Every channel is confirmed on this connection. */
  bool confirmed() const { return open_ == 0 && !channels_.empty() && up_; }

  /** The connection is gone. The pause before the next one; empty when the gateway said that coming back is of no use. */
  std::optional<steady::duration> ended(const link_end& how);

  /** Where each channel began, as far as that is fixed: the position asked for, or the one its confirmation named. */
  channel_positions starts() const;

private:
  struct channel {
    std::string name;
    std::string at;     ///< the last event's, or its start; empty: none yet
    std::string start;
    bool begins_now{};  ///< on this connection
    bool confirmed{};
    std::string partial{};  ///< given of a snapshot that is not complete: the last event's time. Interrupted, that is told by a reset
    bool over{};  ///< told to start over: where it was first asked to begin does not count any more
  };
  channel* find(std::int64_t id);
  std::vector<std::string> subscribe(bool those_that_begin_now) const;
  steady::duration pick(std::chrono::milliseconds least, std::chrono::milliseconds most);

  std::vector<channel> channels_;
  std::string after_;
  std::string filter_;  ///< members of a subscribe message, each behind its comma
  bool snapshot_;  ///< the rows come first where nothing is known yet
  std::string consumer_;  ///< decides where a channel starts of which nothing is known yet
  std::mt19937_64 random_;
  std::size_t open_{};   ///< channels not yet confirmed
  std::size_t now_{};    ///< those of them that begin now
  bool all_asked_{};
  bool begins_anew_{};
  int attempts_{};       ///< connections in a row that were not confirmed
  bool up_{};
  bool refused_{};       ///< a subscription was refused for good
};

}  // namespace postbus::remote
