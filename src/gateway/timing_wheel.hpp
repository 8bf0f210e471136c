#pragma once
#include <array>
#include <chrono>
#include <cstdint>

namespace postbus::gateway {

/**
 * Deadlines of many connections at constant cost: a ring of slots, each a list of timers that stand in the connections
 * themselves. A deadline further away than the ring waits for its round. Exact to one tick. One thread.
 * Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", scheme 6.
 */
class timing_wheel {
public:
  static constexpr std::chrono::milliseconds tick{100};

  /** A timer and its place in the wheel. Cancels itself when it goes. */
  class timer {
  public:
    timer() = default;
    timer(const timer&) = delete;
    timer& operator=(const timer&) = delete;
    ~timer() { cancel(); }
    bool armed() const { return previous_ != nullptr; }
    void cancel() {
      if (!armed()) return;
      *previous_ = next_;
      if (next_ != nullptr) next_->previous_ = previous_;
      previous_ = nullptr;
      next_ = nullptr;
    }

  private:
    friend class timing_wheel;
    timer* next_{};
    timer** previous_{};
    std::uint64_t due_{};
  };

  /** Arms (again) to fire not before `after` from now. */
  void arm(timer& t, std::chrono::milliseconds after) {
    t.cancel();
    t.due_ = now_ + static_cast<std::uint64_t>(after / tick) + 1;
    auto*& head = slots_[t.due_ % slots_.size()];
    t.next_ = head;
    t.previous_ = &head;
    if (head != nullptr) head->previous_ = &t.next_;
    head = &t;
  }

  /** One tick has passed: calls `fire` for each timer that is due, disarmed. `fire` may arm and cancel any timer. */
  template <class Fire>
  void advance(Fire&& fire) {
    ++now_;
    timer* due = nullptr;
    for (timer* t = slots_[now_ % slots_.size()]; t != nullptr;) {
      timer* const next = t->next_;
      if (t->due_ <= now_) {  // moved to a list of its own first, so that `fire` may change the slot
        t->cancel();
        t->next_ = due;
        t->previous_ = &due;
        if (due != nullptr) due->previous_ = &t->next_;
        due = t;
      }
      t = next;
    }
    while (due != nullptr) {
      timer* const t = due;
      t->cancel();
      fire(*t);
    }
  }

private:
  std::uint64_t now_{};
  std::array<timer*, 1024> slots_{};
};

}  // namespace postbus::gateway
