#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bus/event.hpp"
#include "support/cluster.hpp"

/**
 * Two accounts of the same WAL, brought to one form: what PostgreSQL's own output plugin test_decoding tells of it, and
 * what listeners were given. One line a change, headed by the end LSN of its commit and its transaction:
 *
 *   1a2b3c8 745 public.t UPDATE id=1 name="new" old id=1 name="old"
 *   1a2b3c8 745 message news text hello
 *
 * Values are JSON as PostgreSQL writes it: test_decoding's text goes through to_json of the column's type. Of an old row
 * test_decoding leaves nulls out; so does the form, SQL's and JSON's. A message whose record ends where another change's begins
 * was made before it; where test_decoding tells the two the other way round (assembler.cpp says why) the account does not.
 */
namespace postbus::testing_support {

using columns = std::map<std::string, std::string>;  ///< JSON by name

/** What test_decoding tells, from a slot of its own. */
class witness {
public:
  /** The feed's table that a table's changes belong to: a partition's root, itself; empty where it has no feed. */
  using naming = std::function<std::string(std::string_view qualified)>;

  witness(const database& db, naming feed_of);
  ~witness();
  witness(const witness&) = delete;
  witness& operator=(const witness&) = delete;
  /** What was committed since the last call. */
  std::vector<std::string> account();

private:
  struct value {
    enum class kind { known, null, unchanged } is{};
    std::string type, text;
  };
  using tuple = std::map<std::string, value>;
  struct change {
    std::uint64_t lsn{}, xid{};
    std::string table, action;
    std::optional<tuple> old, row;
    std::string message;
  };

  void read(std::uint64_t lsn, std::uint64_t xid, std::string_view line, std::vector<change>& into) const;
  static tuple read_tuple(std::string_view& rest);
  /** As JSON, all values of a type in one statement. */
  void to_json(const std::vector<change>& all);
  columns written(const tuple& of, const tuple* old, bool with_nulls) const;

  session session_;
  naming feed_of_;
  std::map<std::pair<std::string, std::string>, std::string> json_;  ///< by type and text
};

/** What listeners of a channel were given, in the same form; `schema` events tell no change and are left out. */
std::vector<std::string> account(const std::vector<bus::event_ref>& events);

/** Where two accounts first differ, with what stands around; empty where they do not. */
std::string difference(const std::vector<std::string>& ours, const std::vector<std::string>& theirs);

}  // namespace postbus::testing_support
