#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "postgres/child_process.hpp"

namespace postbus::postgres {

/** A folder with PostgreSQL's server programs. */
struct server_binaries {
  std::filesystem::path folder;
  int major{};
};

/**
 * The PostgreSQL installations of this system, newest first: `given` alone if not empty (--pg-bin), else Debian's
 * /usr/lib/postgresql/N/bin, other usual places, and PATH. Asks each `postgres --version`; blocks a few milliseconds.
 */
std::vector<server_binaries> find_server_binaries(const std::filesystem::path& given = {});

/** $XDG_DATA_HOME/postbus or ~/.local/share/postbus; /var/lib/postbus as root. */
std::filesystem::path default_data_folder();

/** How other commands reach the running `serve` of a data folder. */
struct attachment {
  std::string url;      ///< the embedded database, with its password: never shown
  std::string gateway;  ///< "http://127.0.0.1:7432"
  int pid{};            ///< of serve
};

/**
 * Where the running `serve` on `folder` can be reached. errc::not_found with what to do when none runs (a stale file
 * counts as none: the lock decides). Any thread; does not wait.
 */
result<attachment> read_attachment(const std::filesystem::path& folder);

/**
 * The folder of one embedded server, locked by one process at a time. Layout:
 *   postbus.lock   locked (F_OFD_SETLK) while in use; holds the pid; marks the folder as ours
 *   password       of the database role `postgres`, mode 0600
 *   port           the TCP port and socket number, kept over restarts
 *   attach.json    while serve runs, mode 0600 (it holds the password)
 *   postgres/      the cluster; postgres.new/ while initdb works
 *   postgres.log   the server's messages, at most 8 MB, the part before in postgres.log.1
 *   run/           the unix socket, if the path is short enough
 * When root runs it, the folder belongs to root and only postgres/, run/ belong to the user the server runs as.
 */
class data_folder {
public:
  /** Creates (or takes) and locks the folder. Refuses with the fix: in use, not ours, of another user, not writable. */
  static result<data_folder> open(const std::filesystem::path& folder, const std::optional<system_user>& server_user);

  data_folder(data_folder&& other) noexcept;
  data_folder& operator=(data_folder&&) = delete;
  ~data_folder();  ///< removes attach.json and gives the lock up

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path cluster() const { return path_ / "postgres"; }
  std::filesystem::path log() const { return path_ / "postgres.log"; }
  /** The folder of the unix socket: run/, or a short private one where the path would pass the system's limit of 107 bytes. */
  const std::filesystem::path& sockets() const { return sockets_; }

  /** The role's password; made (32 random bytes) when there is no cluster yet, else errc::not_found with the fix. */
  result<std::string> password();
  std::optional<std::uint16_t> saved_port() const;
  result<> save_port(std::uint16_t port);
  /** Writes attach.json at once and whole. */
  result<> write_attachment(const attachment& at);
  /** PostgreSQL major of the cluster; nullopt when there is none. */
  std::optional<int> cluster_major() const;

private:
  data_folder(std::filesystem::path path, int lock) : path_{std::move(path)}, lock_{lock} {}
  result<> prepare(const std::optional<system_user>& server_user);
  std::filesystem::path path_;
  std::filesystem::path sockets_;
  int lock_{-1};
};

/** A free TCP port of 127.0.0.1 below the range from which the system gives ports to clients; 0 when none was found. */
std::uint16_t find_free_port();
/** True when 127.0.0.1:port can be bound now. */
bool is_port_free(std::uint16_t port);

}  // namespace postbus::postgres
