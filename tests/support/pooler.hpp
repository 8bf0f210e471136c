#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "support/cluster.hpp"

namespace postbus::testing_support {

/** pgbouncer in transaction mode before a database, with one session of the server's for all its clients. */
class pooler {
public:
  /** Whether pgbouncer is installed. */
  static bool is_there();
  explicit pooler(const database& db);
  ~pooler();
  /** The superuser's URL through it. */
  const std::string& url() const { return url_; }

private:
  struct impl;
  std::unique_ptr<impl> impl_;
  std::string url_;
};

}  // namespace postbus::testing_support
