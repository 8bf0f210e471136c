#pragma once
#include <boost/container/small_vector.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/event.hpp"

namespace postbus::bus {

/** How many wire forms there can be. Which they are is the gateway's business: it gives each an encoder. */
inline constexpr std::size_t max_wire_forms = 8;
using wire_form = std::uint8_t;

/** Appends one event in one wire form, as a whole that needs nothing around it (a WebSocket frame, an SSE block). */
using encoder = void (*)(std::string& out, const event& e);

/**
 * The bytes of one channel in one wire form that some subscriber has not sent yet. Offsets are absolute: they grow for as
 * long as the log lives, whatever has been dropped at its front.
 */
class encoded_log {
public:
  std::uint64_t begin() const { return base_; }
  std::uint64_t end() const { return base_ + bytes_.size(); }
  /** The bytes from `offset` on; begin() <= offset <= end(). Valid until the log changes. */
  std::string_view from(std::uint64_t offset) const { return std::string_view{bytes_}.substr(offset - base_); }
  /** The first place between two events at or after `offset`. */
  std::uint64_t boundary(std::uint64_t offset) const;
  /** Where the last appended event begins. */
  std::uint64_t last_begin() const { return last_begin_; }

  void append(encoder encode, const event& e);
  /** Forgets what stands before `offset`. */
  void drop_before(std::uint64_t offset);

private:
  std::string bytes_;
  std::uint64_t base_{};
  bool base_is_boundary_{true};  // false when the slowest reader stands within an event
  std::uint64_t last_begin_{};
  std::vector<std::uint64_t> ends_;  // absolute; of the events that still stand in bytes_
};

class topic;

/** A subscriber to one channel in one wire form: a place in the channel's log. Owned by its session; lives on the shard's thread. */
class cursor {
public:
  cursor() = default;
  cursor(const cursor&) = delete;
  cursor& operator=(const cursor&) = delete;
  virtual ~cursor() = default;

  bool attached() const { return topic_ != nullptr; }
  /** Bytes that are waiting: what stands between the cursor and the log's end. */
  std::string_view pending() const;
  /** `bytes` of pending() have been sent. */
  void advance(std::size_t bytes) { offset_ += bytes; }
  /** Bytes up to the end of the event that is partly sent, 0 at a boundary: control frames may go only there. */
  std::size_t bytes_to_boundary() const;
  /** Bytes waiting beyond the event that is being sent and not counting the newest one: what tells a slow reader from a large message. */
  std::size_t lag() const;
  std::string_view channel() const;

  /** Something was appended for this cursor; called once per loop turn, from shard::flush. Send what the socket takes. */
  virtual void on_pending() = 0;
  /** The channel has ended (kind::ended): what is pending is all there will be. Must not unsubscribe from within. */
  virtual void on_ended() {}

private:
  friend class topic;
  topic* topic_{};
  std::uint64_t offset_{};
  std::uint32_t slot_{};
  wire_form form_{};
};

/** A subscriber that wants the events themselves (many channels on one connection, in-process callbacks). */
class listener {
public:
  virtual ~listener() = default;
  /** One event of `of`, in publish order, on the shard's thread. Must not subscribe or unsubscribe from within. */
  virtual void on_event(topic& of, const event_ref& e) = 0;
};

/** One channel on one shard: its subscribers, and a log for each wire form in use. Shard's thread only. */
class topic {
public:
  explicit topic(std::string channel) : channel_{std::move(channel)} {}

  std::string_view channel() const { return channel_; }
  std::size_t subscribers() const;

  void attach(cursor& c, wire_form form);
  void detach(cursor& c);
  void attach(listener& l) { listeners_.push_back(&l); }
  void detach(listener& l);

  /** Encodes the event once per form in use and hands it to the listeners. True when some cursor got something. */
  bool deliver(const std::array<encoder, max_wire_forms>& encoders, const event_ref& e);
  /** Lets every cursor with something pending send, then forgets what all have sent. */
  void flush();
  /** Bytes held for readers that lag. */
  std::size_t retained() const;

  bool dirty{};  ///< in the shard's list of topics to flush
  static constexpr std::size_t read_first = 48;  ///< bytes of a topic that every delivery reads

private:
  friend class cursor;
  struct form_state {
    encoded_log log;
    std::vector<cursor*> cursors;
  };

  // In front what a delivery reads first: of listeners alone it reads no more.
  static_assert(max_wire_forms <= 8);
  std::uint8_t forms_in_use_{};  // a bit for each of forms_ that is there
  boost::container::small_vector<listener*, 1> listeners_;
  std::array<std::unique_ptr<form_state>, max_wire_forms> forms_;
  std::string channel_;
};

}  // namespace postbus::bus
