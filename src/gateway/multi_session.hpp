#pragma once
#include <boost/unordered/unordered_flat_map.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/channel_session.hpp"
#include "gateway/ws_message.hpp"

namespace postbus::gateway {

/**
 * A connection that listens on many channels. Its events must leave in the hub's order over all channels, so that one
 * position resumes them all: it queues references to the shared events and puts their encoded bytes together when the
 * socket takes them. The queue exists only while something is pending and is bounded.
 */
class multi_session : public session {
public:
  using session::session;
  ~multi_session() override;

  void flush() final;
  void after_flush() final;
  void drain() override { end(errc::draining); }
  void recheck(const token* mine) override;

protected:
  struct subscription final : bus::listener {
    subscription(multi_session& s, std::int64_t given_id, listen_request a) : owner{s}, id{given_id}, asked{std::move(a)} {}
    void on_event(bus::topic&, const bus::event_ref& e) override { owner.queue(e, *this); }
    multi_session& owner;
    std::int64_t id;
    listen_request asked;
    std::unique_ptr<snapshot_rows> rows{};     // until they are sent; only then it is subscribed
    std::optional<bus::progress> replaying{};  // until history has been given
    bool attached{};                           // to the hub; else it is given what comes before
    bool over{};                               // history does not reach back to where it was to go on
    bool has_tables{true};                     // for all that is known
    std::shared_ptr<room_signal> room{};
  };

  virtual void append_event(std::string& out, const bus::event_ref& e, const subscription& from) = 0;
  virtual void append_row(std::string& out, const bus::event& e, const subscription& from) = 0;
  virtual void append_ending(std::string& out, errc why) = 0;
  /** The view of `from` has ended: says why. */
  virtual void append_view_ending(std::string&, const subscription&) {}
  /** The snapshot of a subscription cannot be completed: its last words. */
  virtual void append_refusal(std::string& out, const subscription& from, const error& why) = 0;

  /** Begins to give a subscription its rows; its position is fixed behind them. */
  void begin_rows(std::int64_t id, listen_request asked);
  /**
   * Subscribes and queues the replay, or begins to read the stream's tables; `fixed` is told the position from which on
   * nothing is missed, from within or later.
   */
  void subscribe(std::int64_t id, listen_request asked, std::function<void(result<bus::position>)> fixed);
  /**
   * Queues at most `most` of what history has after `from`; the last portion subscribes, others follow when all has been sent.
   * False, and nothing done, where the tables may have what history lacks. `at`: nothing after it is missed.
   */
  bool replay(subscription& s, const bus::progress& from, bus::position& at, bus::portion most = {.bytes = replay_at_once});
  subscription& make(std::int64_t id, listen_request asked);
  void unsubscribe(std::int64_t id);
  bool has(std::int64_t id) const { return subscriptions_.contains(id); }
  std::size_t subscribed() const { return subscriptions_.size(); }
  struct waiting {
    bus::event_ref event;
    std::int64_t id;
  };
  void queue_replay(std::vector<waiting> events);
  /** Puts what is queued, of several subscriptions one after the other, into the order of all channels. */
  void sort_replay();
  const auto& subscriptions() const { return subscriptions_; }
  const bus::event* next_waiting() const { return pending_.empty() ? nullptr : pending_.front().event.item; }
  /** Events and bytes that have not been sent. */
  std::size_t waiting_bytes() const { return pending_.size() + out_bytes(); }
  /** Everything has been sent. */
  virtual void on_sent() {}
  void end(errc why);
  bool ending() const { return ending_.has_value(); }
  bool flushed_since_timer_{};
  /** While something is given before all else, whoever takes some is alive. */
  bool takes_some() const { return catches_up() && flushed_since_timer_; }
  virtual bool catches_up() const { return !catching_up_.empty(); }

private:
  void queue(const bus::event_ref& e, const subscription& from);
  void leave(subscription& s);
  bool give_more(std::string& bytes);
  bool give_rows(subscription& s, std::string& bytes);
  void begin_over(subscription& s, const error& why);
  /** `fixed` may be empty: it has been told. */
  void read_tables(subscription& s, const bus::progress& from, std::function<void(result<bus::position>)> fixed);
  void push(bus::event_ref e, std::int64_t id);

  boost::unordered_flat_map<std::int64_t, std::unique_ptr<subscription>> subscriptions_;
  std::deque<std::int64_t> catching_up_;  // subscriptions that are given rows or history, each in its turn
  std::deque<waiting> pending_;
  std::size_t pending_bytes_{};
  std::vector<std::int64_t> ended_;  ///< subscriptions that are over and whose client knows
  std::optional<errc> ending_;
};

/** `/v1/ws`: subscribe, unsubscribe and post over one WebSocket. */
class websocket_multi final : public multi_session {
public:
  websocket_multi(loop& home, socket&& s, std::unique_ptr<identity> who);
  void begin() override;
  void on_timer() override;

private:
  void on_bytes(std::span<char> bytes) override;
  void append_event(std::string& out, const bus::event_ref& e, const subscription& from) override;
  void append_row(std::string& out, const bus::event& e, const subscription& from) override;
  void append_ending(std::string& out, errc why) override;
  void append_view_ending(std::string& out, const subscription& from) override;
  void append_refusal(std::string& out, const subscription& from, const error& why) override;
  void break_off(std::uint16_t code, std::string_view why);
  void act(std::string_view text);
  void act(std::int64_t id, ws_subscribe&& wanted);
  void act(std::int64_t id, const ws_unsubscribe& wanted);
  void act(std::int64_t id, ws_post&& wanted);
  void refuse(std::int64_t id, const error& why);
  void act(std::int64_t id, ws_ack&& wanted);
  void confirm(std::int64_t id, const result<bus::position>& at);
  static boost::asio::awaitable<void> acknowledge(loop& home, std::shared_ptr<session*> weak, std::int64_t id, ws_ack wanted);
  static boost::asio::awaitable<void> post_queued(loop& home, std::shared_ptr<session*> weak);
  void answer_post(std::int64_t id, const result<bus::position>& posted);
  /** True when so much waits for the database that nothing more is read: at all of a bound, or, to be read again, at half of it. */
  bool waits_for_database(std::size_t part) const;

  ws_intake intake_;
  bool heard_{true};
  std::string row_;  // one row's event, reused
  struct queued_post {
    std::int64_t id;
    ws_post message;
    body_share held;
  };
  // Posts of one connection reach the database in the order they came: one is under way, the rest wait here.
  std::deque<queued_post> posts_;
  std::size_t posts_bytes_{};
  bool posting_{};
  std::size_t acks_{};  // under way
  boost::unordered_flat_map<std::int64_t, bool> opening_;  // subscribes that are not confirmed yet; true: unsubscribed meanwhile
};

/** `GET /v1/events?channel=a&channel=b`: many channels over one SSE stream; also the lines of `/wait?loop=true`. */
class stream_multi final : public multi_session {
public:
  stream_multi(loop& home, socket&& s, std::unique_ptr<identity> who, std::vector<listen_request> asked, form f, std::string head);
  ~stream_multi() override;
  void begin() override;
  void on_timer() override;

private:
  void on_bytes(std::span<char>) override {}
  /** A notice of one channel behind which something else follows that lies no later leaves with the position before it. */
  void append_event(std::string& out, const bus::event_ref& e, const subscription& from) override;
  void append_row(std::string&, const bus::event&, const subscription&) override {}  // many channels begin with no rows
  void append_ending(std::string& out, errc why) override;
  void append_refusal(std::string&, const subscription&, const error&) override {}
  void on_sent() override;
  bool catches_up() const override { return replaying_; }
  /** Writes the response's head and the first position, once. */
  void open(const bus::position& at);
  /** Opens and queues a portion; what comes first of all tells of notifications that nobody heard. */
  void give(const bus::position& opening, std::vector<waiting> events);
  /** Gives a portion of what history has of all channels, in their order; behind the last all are subscribed. Or begins to read the tables. */
  void replay_some();
  void join_all();
  /** Brings streams from the tables and the other channels from history, in one order, until history has all. */
  static boost::asio::awaitable<void> read_tables(loop& home, std::shared_ptr<session*> weak, std::shared_ptr<room_signal> room);
  bus::portion portion() const;

  std::shared_ptr<room_signal> room_;  ///< while the tables are read
  bool replaying_{};  ///< the next portion is due when this one has been sent
  bool has_tables_{true};  ///< for all that is known
  std::vector<bus::hub::lane> lanes_;  ///< how far each channel has come, by the id of its subscription
  bus::start given_;  ///< how far all have come
  std::vector<listen_request> asked_;
  form form_;
  std::string head_;
  bus::position sent_;  ///< where a client that breaks off now resumes
};

}  // namespace postbus::gateway
