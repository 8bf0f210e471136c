#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bus/hub.hpp"
#include "bus/topic.hpp"

namespace postbus::bus {

/**
 * One loop thread's end of the hub: the topics it has subscribers for and what was published and not yet delivered.
 * Lives and is used on its own thread; only `wake` is called from others.
 */
class shard {
public:
  /** `wake` is called with the hub's lock held, from any thread, when the inbox stops being empty. It must only ring. */
  shard(hub& h, std::array<encoder, max_wire_forms> encoders, std::function<void()> wake);
  shard(const shard&) = delete;
  shard& operator=(const shard&) = delete;
  ~shard();

  /**
   * Starts a subscription; what `replay` holds comes before anything the cursor or listener is given. `history`: the channel
   * whose kept events are replayed, where it is another (see hub, derived events). Where they are more than `most` the
   * subscription does not start yet: call again with `next` once this portion has been sent, until one is the `end`.
   */
  replay subscribe(cursor& c, wire_form form, std::string_view channel, const progress& from, std::string_view history = {},
                   portion most = {});
  replay subscribe(listener& l, std::string_view channel, const progress& from, std::string_view history = {}, portion most = {});
  void unsubscribe(cursor& c);
  /** A reader that lagged has sent everything: what was kept for it may go. */
  void caught_up(const cursor& c);
  void unsubscribe(listener& l, std::string_view channel);

  /** Takes what was published since and hands it to the topics. */
  void deliver();
  /** The end of a loop turn: every cursor that got something may send. */
  void flush();

  hub& owner() { return hub_; }
  /** Subscribers of `channel` on this shard. */
  std::size_t subscribers(std::string_view channel) const;
  std::size_t topics() const { return topics_.size(); }
  /** Channel and subscribers of each topic. */
  std::vector<std::pair<std::string, std::size_t>> summary() const;
  /** Bytes kept for readers that lag, over all topics. */
  std::size_t retained() const;

private:
  friend class hub;
  topic& open(std::string_view channel);
  template <class Attach>
  replay subscribe(std::string_view channel, const progress& from, std::string_view history, portion most, Attach attach);
  void close_if_unused(topic& t);
  void hand_out(inbox& taken);
  void hand_out_to_all(const event& e, bus::channels among);
  void mark(topic& t);

  hub& hub_;
  std::array<encoder, max_wire_forms> encoders_;
  std::function<void()> wake_;
  boost::unordered_flat_map<std::string_view, std::unique_ptr<topic>> topics_;  // keyed by the topic's own channel
  std::vector<topic*> dirty_;
  inbox taken_;    // reused between turns
  inbox pending_;  // guarded by the hub's lock
};

}  // namespace postbus::bus
