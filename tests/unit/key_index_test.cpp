#include "feeds/key_index.hpp"

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <random>

namespace postbus::feeds {
namespace {

// Beside a multimap, with as many leaving as entering, so that holes are closed over and again; keys come several times.
TEST(key_index, finds_what_is_entered_and_nothing_else) {
  std::mt19937 random{20261125};
  for (int round = 0; round < 20; ++round) {
    key_index index;
    std::list<keyed> entered;
    std::multimap<std::string, keyed*> model;
    const auto keys = 1u + random() % 3000;
    for (int step = 0; step < 4000; ++step) {
      if (random() % 5 < 3 || entered.empty()) {
        auto& one = entered.emplace_back();
        one.key = "key " + std::to_string(random() % keys);
        index.enter(one);
        model.emplace(one.key, &one);
      } else {
        const auto gone = std::next(entered.begin(), static_cast<std::ptrdiff_t>(random() % std::min<std::size_t>(entered.size(), 50)));
        index.leave(*gone);
        const auto [first, last] = model.equal_range(gone->key);
        model.erase(std::find_if(first, last, [&](const auto& m) { return m.second == &*gone; }));
        entered.erase(gone);
      }
    }
    for (unsigned k = 0; k < keys; ++k) {
      const auto key = "key " + std::to_string(k);
      const auto hash = key_index::hash(key);
      index.expect(hash);
      index.expect_entry(hash, 64);
      std::size_t count = 0;
      for (const auto* one = index.find(hash, key); one != nullptr; one = one->next, ++count) ASSERT_EQ(one->key, key);
      ASSERT_EQ(count, model.count(key)) << key << ", round " << round;
    }
  }
}

}  // namespace
}  // namespace postbus::feeds
