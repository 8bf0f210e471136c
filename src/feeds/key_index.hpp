#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace postbus::feeds {

/** Something that is found by its key. Those with equal keys form a list. Does not move while it is entered. */
struct keyed {
  std::string key;
  keyed* next{};
  keyed* previous{};
};

/**
 * Finds what was entered under a key. Made for many keys of which each look touches a random few, so that what they cost is the
 * memory they touch: a slot holds a key's hash and its first entry, and both can be asked for some steps before they are
 * needed. Open addressing with linear probing; owns nothing. One thread.
 */
class key_index {
public:
  static std::size_t hash(std::string_view key);
  void enter(keyed& one);
  void leave(keyed& one);
  /** The first of those entered under `key`; null: none. `hash`: the key's. */
  keyed* find(std::size_t hash, std::string_view key) const;

  /** Two hints that `find` will follow: the slot, and, some time later, what it leads to. */
  void expect(std::size_t hash) const;
  void expect_entry(std::size_t hash, std::size_t bytes) const;

private:
  struct slot {
    std::size_t hash{};
    keyed* first{};  ///< null: nothing is here
  };
  std::size_t mask() const { return slots_.size() - 1; }
  std::size_t place(std::size_t hash, std::string_view key) const;
  void grow();

  std::vector<slot> slots_ = std::vector<slot>(16);  // a power of two, at most three quarters in use
  std::size_t used_{};
};

}  // namespace postbus::feeds
