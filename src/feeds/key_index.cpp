#include "feeds/key_index.hpp"

#include <boost/container_hash/hash.hpp>

#include <utility>

#include "base/prefetch.hpp"

namespace postbus::feeds {

std::size_t key_index::hash(std::string_view key) { return boost::hash<std::string_view>{}(key); }

/** Where the key is, or where it would go. */
std::size_t key_index::place(std::size_t hash, std::string_view key) const {
  auto at = hash & mask();
  while (slots_[at].first != nullptr && (slots_[at].hash != hash || slots_[at].first->key != key)) at = (at + 1) & mask();
  return at;
}

keyed* key_index::find(std::size_t hash, std::string_view key) const { return slots_[place(hash, key)].first; }

void key_index::enter(keyed& one) {
  if ((used_ + 1) * 4 > slots_.size() * 3) grow();
  const auto its_hash = hash(one.key);
  auto& in = slots_[place(its_hash, one.key)];
  if (in.first == nullptr)
    ++used_;
  else
    in.first->previous = &one;
  one.next = in.first;
  one.previous = nullptr;
  in = {its_hash, &one};
}

void key_index::leave(keyed& one) {
  if (one.next != nullptr) one.next->previous = one.previous;
  if (one.previous != nullptr) {
    one.previous->next = one.next;
    return;
  }
  auto hole = place(hash(one.key), one.key);
  slots_[hole].first = one.next;
  if (one.next != nullptr) return;
  // What was displaced moves up, so that no search ends at the hole.
  for (auto at = (hole + 1) & mask(); slots_[at].first != nullptr; at = (at + 1) & mask()) {
    const auto displaced = (at - slots_[at].hash) & mask();
    if (displaced < ((at - hole) & mask())) continue;
    slots_[hole] = std::exchange(slots_[at], {});
    hole = at;
  }
  --used_;
}

void key_index::grow() {
  for (auto& old : std::exchange(slots_, std::vector<slot>(slots_.size() * 2)))
    if (old.first != nullptr) {
      auto at = old.hash & mask();
      while (slots_[at].first != nullptr) at = (at + 1) & mask();
      slots_[at] = old;
    }
}

void key_index::expect(std::size_t hash) const { prefetch(&slots_[hash & mask()]); }

void key_index::expect_entry(std::size_t hash, std::size_t bytes) const {
  auto at = hash & mask();
  while (slots_[at].first != nullptr && slots_[at].hash != hash) at = (at + 1) & mask();
  prefetch(slots_[at].first, bytes);
}

}  // namespace postbus::feeds
