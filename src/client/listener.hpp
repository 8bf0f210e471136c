#pragma once
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "client/listen_session.hpp"
#include "client/websocket_link.hpp"
#include "postbus/client.hpp"

namespace postbus {

/**
 * A thread that owns the connection and the policy (listen_session), and a bounded queue between it and the consumer.
 *
 * The life of an event here: frame → session fixes the channel's position → queue → next() gives it out → the following
 * next() counts it as handled → once the queue is empty, or a second has passed, the handled positions are saved. Saving
 * while events pile up makes one save stand for many.
 * A full queue stops the reading: TCP then holds the gateway back, which in the end cuts us off with 4001, and the session
 * resumes after the last event queued. Only while listen() waits for channels that begin now it is read on, since nobody
 * takes from the queue then.
 */
struct listener::impl {
  impl(remote::link_settings to, client_options how, std::vector<std::string> channels, listen_options options);
  ~impl();

  std::optional<event> next(std::chrono::milliseconds timeout);
  /** Waits until nothing that is posted from then on is missed; see client::listen. Throws request_error. */
  void wait_confirmed();
  void stop();
  /** Counts the event given out last as handled, and merges where channels began. */
  void settle();
  /** Writes the file if anything has moved since. */
  void save();

  // The listener's thread.
  void run();
  remote::link_end hold(remote::websocket_link& link);
  remote::link_end talk();
  bool has_room() const;  ///< under the guard
  bool wait_for_room();
  void note_progress(bool up);
  void tell(link_state state, std::string_view why);

  remote::link_settings to;
  client_options how;
  listen_options options;
  std::optional<remote::resume_file> file;
  remote::wakeup wake;
  remote::listen_session session;  ///< the thread's alone

  // The consumer's alone.
  remote::channel_positions handled;
  std::optional<std::pair<std::string, std::string>> in_hand;  ///< channel and position of the event given out last
  bool dirty{};
  steady::time_point saved{};

  mutable std::mutex guard;  ///< for what follows
  std::condition_variable changed;
  std::deque<event> queue;
  std::size_t queued_bytes{};
  remote::channel_positions starts;  ///< fixed by the thread, merged into `handled` by the consumer
  bool starts_moved{};
  bool whole{};      ///< listen_session::whole(), once it was
  bool confirmed{};  ///< every channel, once they were
  bool stopping{};
  bool ended{};
  std::optional<error> failure;  ///< why it ended for good
  error trouble;                 ///< why the last connection ended

  std::thread thread;
};

}  // namespace postbus
