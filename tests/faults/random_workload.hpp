#pragma once
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/cluster.hpp"

namespace postbus::testing_support {

/**
 * Sessions whose open transactions interleave, each step one statement of one of them: rows of every kind, keys that change,
 * rows that move between partitions, TRUNCATE, savepoints, rollbacks, two-phase commits, columns that come, go and change
 * within and between transactions, posted messages. One thread, so that a seed repeats it; who would wait for a lock
 * gives its transaction up.
 */
class random_workload {
public:
  /** Creates its tables and watches them. */
  random_workload(const database& db, unsigned seed);

  /** One statement. */
  void step();
  /** Ends every transaction. */
  void settle();

  /** The channels on which it may be heard. */
  static std::vector<std::string> channels();
  /** As witness::naming. */
  static std::string feed_of(std::string_view table);
  /** Statements that were taken, by what they do. */
  const std::map<std::string, int>& done() const { return done_; }

private:
  struct column {
    std::string name, type;
    bool required{};
  };
  struct writer {
    std::unique_ptr<session> to;
    bool open{};
    std::vector<std::string> savepoints;
  };

  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>{0, n - 1}(random_); }
  bool one_in(std::size_t n) { return below(n) == 0; }
  const std::string& some_table();
  std::string some_id() { return std::to_string(below(400)); }
  std::string literal(const column& c);
  std::vector<column> columns_of(writer& w, const std::string& table);

  std::string change(writer& w, std::string& what);
  std::string insert(writer& w, const std::string& table, std::size_t rows);
  std::string update(writer& w, const std::string& table);
  std::string alter(writer& w, const std::string& table);
  std::string post();
  void end(writer& w);
  void settle_prepared();
  bool run(writer& w, std::string_view what, const std::string& sql);

  std::mt19937 random_;
  std::vector<writer> writers_;
  std::vector<std::string> prepared_;
  int names_{};
  std::map<std::string, int> done_;
};

}  // namespace postbus::testing_support
