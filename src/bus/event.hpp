#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "bus/position.hpp"

namespace postbus::bus {

enum class kind : std::uint8_t {
  message,
  insert,
  update,
  delete_,
  truncate,
  row,
  live,
  enter,
  leave,
  schema,
  task,
  value,
  gap,
  reset,
  ended,  ///< never on the wire: nothing more comes on this channel, and its subscribers find out why by themselves
};

/** The word for a kind on the wire: "message", "insert", …, "delete". */
std::string_view to_text(kind k);
/** The kind a word stands for; errc::invalid_argument for any other word. */
result<kind> parse_kind(std::string_view word);

/**
 * The name of a channel as clients see it. A feature may add a control character 0x1F and words of its own behind a
 * channel's name to keep apart what different listeners of it are given; user names hold no control characters.
 */
std::string_view public_name(std::string_view channel);

/** Whether a payload is embedded in the event's JSON as it is (it is one JSON value) or as a string. */
enum class payload_form : std::uint8_t { text, json };

/** One message. Immutable once its batch is published; every view points into the batch that owns it. */
struct event {
  position at;
  std::uint64_t seq{};  ///< the hub's own dense order; 0 until published
  unix_micros time{};   ///< commit time; for plain NOTIFY the time of receipt
  std::string_view channel;
  std::string_view payload;
  std::uint64_t xid{};      ///< wide id of its transaction; 0: of none
  std::string_view origin;  ///< what it was made from, for the feature that made it; nobody else looks, and it never goes out
  bus::kind kind{kind::message};
  payload_form form{payload_form::text};

  // The hub's chain of one channel's events, newest to oldest, for listeners that resume.
  const event* previous{};        ///< meaningful while previous_seq is within the history
  std::uint64_t previous_seq{};   ///< 0: the first event since the hub knows the channel
  position previous_at{};
};

struct channel_state;  // what a hub knows of a channel

/**
 * A channel that derived events go to. It keeps what the hub found under its name, so that each event need not be looked up
 * again among many channels. Of one hub and of the thread that publishes there; the name must outlive it.
 */
class destination {
public:
  explicit destination(std::string_view channel) : channel_{channel} {}
  template <std::same_as<std::string> Text>
  explicit destination(Text&&) = delete;
  std::string_view channel() const { return channel_; }

private:
  friend class hub;
  std::shared_ptr<channel_state> found_;  // right for as long as it has subscribers: a channel that has is not forgotten
  std::string_view channel_;
};

/**
 * Some events in publish order and the memory they stand in. Filled by one thread, then published to the hub and from
 * there on shared and immutable.
 */
class batch {
public:
  batch() = default;
  batch(const batch&) = delete;
  batch& operator=(const batch&) = delete;

  /** Copies channel and payload into the batch. */
  event& add(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time);
  /** Memory for `size` bytes that live as long as the batch: a feed writes its JSON here, without a copy. */
  char* allocate(std::size_t size);
  /** As `add`, for a payload that already stands in memory of this batch. The channel's bytes are copied. */
  event& add_owned(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time);
  /** Copies an event of `other`, which is not published yet, with its origin and whatever that batch holds. */
  event& add_copy(const event& e, const batch& other);
  /** Keeps what an origin points to alive for as long as the batch lives. */
  void hold(const std::shared_ptr<const void>& kept);

  /**
   * Adds an event that the base event, number `base` of events(), gives to the subscribers of another channel: same position,
   * time, transaction and (as it is told) channel, delivered right behind it, never kept as history. Call it in the order of
   * the base events, before the batch is published; `to` must stay until then. The payload may stand in memory of this batch
   * or of derived().
   */
  event& derive(std::size_t base, destination& to, kind k, std::string_view payload);
  /** The derived events and their memory; made by the first call. */
  batch& derived();

  /** Takes back all events but the first `count`, before the batch is published; their memory stays until the batch goes. */
  void keep_first(std::size_t count) { events_.resize(count); }
  /** Takes back `count` events from `first` on, likewise. */
  void drop(std::size_t first, std::size_t count) {
    const auto from = events_.begin() + static_cast<std::ptrdiff_t>(first);
    events_.erase(from, from + static_cast<std::ptrdiff_t>(count));
  }

  /** Puts the event added last before event number `at`, before the batch is published. */
  void move_last_to(std::size_t at) {
    std::ranges::rotate(events_.begin() + static_cast<std::ptrdiff_t>(at), events_.end() - 1, events_.end());
  }

  /** In the order they were added; stable addresses. */
  std::span<event* const> events() { return events_; }
  std::span<const event* const> events() const { return events_; }
  bool empty() const { return events_.empty(); }
  /** Bytes of memory held, for the history's bound. */
  std::size_t bytes() const { return reserved_ + events_.capacity() * sizeof(event*) + sizeof(batch); }

private:
  friend class hub;
  /** An event whose channel and payload stand already. */
  event& append(std::string_view channel, kind k, payload_form form, std::string_view payload, position at, unix_micros time);

  std::vector<event*> events_;  // they stand in the blocks
  std::vector<std::shared_ptr<const void>> held_;
  std::shared_ptr<batch> derived_;          // until the hub takes it
  struct derivation {
    std::size_t base;  // number of the base event
    destination* to;
  };
  std::vector<derivation> derivations_;  // of each derived event
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* free_{};
  std::size_t left_{};
  std::size_t reserved_{};
};

/** One event and a share of the batch it stands in. */
struct event_ref {
  std::shared_ptr<const batch> owner;
  const event* item{};
  const event* operator->() const { return item; }
  const event& operator*() const { return *item; }
};

/** The event as JSON: {"id":…,"channel":…,"kind":…,"at":…,"payload":…}, appended to `out`. Where there is no position the id is null. */
void append_event_json(std::string& out, const event& e);

}  // namespace postbus::bus
