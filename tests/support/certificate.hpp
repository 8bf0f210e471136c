#pragma once
#include <filesystem>
#include <string_view>

namespace postbus::test {

/** A folder with a fresh self-signed certificate for localhost and its key, both PEM; goes with the object. */
class certificate {
public:
  certificate();
  ~certificate();
  certificate(const certificate&) = delete;
  certificate& operator=(const certificate&) = delete;

  std::filesystem::path chain() const { return file("cert.pem"); }
  std::filesystem::path key() const { return file("key.pem"); }
  std::filesystem::path file(std::string_view name) const { return folder_ / name; }
  /** Writes another pair; over the first one when the names are those. */
  void make(std::string_view chain_name = "cert.pem", std::string_view key_name = "key.pem");

private:
  std::filesystem::path folder_;
};

}  // namespace postbus::test
