#include "postgres/data_folder.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>

namespace postbus::postgres {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t socket_path_limit = 107;                        // sizeof sockaddr_un::sun_path - 1
constexpr std::size_t socket_name_length = sizeof "/.s.PGSQL.65535" - 1;
constexpr const char* lock_name = "postbus.lock";

error file_error(std::string text, int number) { return {errc::io, std::move(text), std::strerror(number)}; }

std::optional<std::string> read_small_file(const fs::path& path) {
  std::ifstream in{path, std::ios::binary};
  if (!in) return std::nullopt;
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

struct flock whole_file(short type) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  return range;
}

std::optional<int> leading_number(std::string_view text) {
  int value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc{}) return std::nullopt;
  return value;
}

std::string user_name(uid_t uid) {
  std::vector<char> buffer(16384);
  passwd entry{};
  passwd* found = nullptr;
  ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
  return found ? found->pw_name : fmt::format("{}", uid);
}

result<> write_private_file(const fs::path& path, std::string_view content) {
  const fs::path fresh = path.string() + ".new";
  const auto written = write_file_as({}, fresh.string(), content, 0600);
  if (!written) return written;
  if (::rename(fresh.c_str(), path.c_str()) != 0) return file_error(fmt::format("could not write '{}'", path.string()), errno);
  return {};
}

/** Makes `path` a folder of `owner` with exactly `mode`, or checks that it is one: a symbolic link or another's folder is refused. */
result<> own_folder(const fs::path& path, uid_t owner, gid_t group, mode_t mode) {
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return file_error(fmt::format("could not create the folder '{}'", path.string()), errno);
  struct stat found{};
  if (::lstat(path.c_str(), &found) != 0) return file_error(fmt::format("could not look at '{}'", path.string()), errno);
  const bool ours = found.st_uid == owner || found.st_uid == ::geteuid();
  if (!S_ISDIR(found.st_mode) || !ours)
    return error{errc::conflict, fmt::format("'{}' is in the way: it is not a folder of user {}; remove it or give another --data",
                                             path.string(), user_name(owner))};
  if (found.st_uid != owner && ::lchown(path.c_str(), owner, group) != 0)
    return file_error(fmt::format("could not give '{}' to user {}", path.string(), user_name(owner)), errno);
  if ((found.st_mode & 07777) != mode && ::chmod(path.c_str(), mode) != 0)
    return file_error(fmt::format("could not set the permissions of '{}'", path.string()), errno);
  return {};
}

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return hash;
}

}  // namespace

std::vector<server_binaries> find_server_binaries(const fs::path& given) {
  std::vector<fs::path> folders;
  if (!given.empty()) {
    folders.push_back(given);
  } else {
    std::error_code ignored;
    for (const char* root : {"/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/pgsql"})
      for (const auto& entry : fs::directory_iterator{root, ignored}) folders.push_back(entry.path() / "bin");
    for (const auto& entry : fs::directory_iterator{"/usr", ignored})  // Red Hat: /usr/pgsql-16/bin
      if (entry.path().filename().string().starts_with("pgsql-")) folders.push_back(entry.path() / "bin");
    folders.emplace_back("/usr/local/pgsql/bin");
    if (const char* path = std::getenv("PATH")) {
      std::istringstream parts{path};
      for (std::string part; std::getline(parts, part, ':');)
        if (!part.empty()) folders.emplace_back(part);
    }
  }
  std::vector<server_binaries> found;
  for (const auto& folder : folders) {
    const auto program = folder / "postgres";
    if (::access(program.c_str(), X_OK) != 0 || ::access((folder / "initdb").c_str(), X_OK) != 0) continue;
    const auto said = run_process({.arguments = {program.string(), "--version"}}, std::chrono::seconds{10});
    constexpr std::string_view before = "postgres (PostgreSQL) ";
    if (!said || !said->ok() || !said->output.starts_with(before)) continue;
    const auto major = leading_number(std::string_view{said->output}.substr(before.size()));
    const auto known = [&](const server_binaries& b) { return b.folder == folder; };
    if (!major || std::ranges::any_of(found, known)) continue;
    found.insert(std::ranges::upper_bound(found, *major, std::ranges::greater{}, &server_binaries::major), {folder, *major});
  }
  return found;
}

fs::path default_data_folder() {
  if (::geteuid() == 0) return "/var/lib/postbus";
  if (const char* data = std::getenv("XDG_DATA_HOME"); data && *data == '/') return fs::path{data} / "postbus";
  const char* home = std::getenv("HOME");
  return fs::path{home && *home ? home : "."} / ".local/share/postbus";
}

result<attachment> read_attachment(const fs::path& folder) {
  const auto nobody = [&](std::string detail) {
    return error{errc::not_found,
                 fmt::format("no gateway runs on the data folder '{}': start one with `postbus serve`, or name the database with "
                             "--db URL and the gateway with --url",
                             folder.string()),
                 std::move(detail)};
  };
  const int lock = ::open((folder / lock_name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (lock < 0 && errno == EACCES)
    return error{errc::forbidden,
                 fmt::format("the data folder '{}' belongs to another user: run this as that user, or give --db URL", folder.string())};
  if (lock < 0) return nobody(std::strerror(errno));
  struct flock probe = whole_file(F_RDLCK);  // asks without taking, so that a reader never makes a starting serve fail
  const bool free = ::fcntl(lock, F_OFD_GETLK, &probe) == 0 && probe.l_type == F_UNLCK;
  ::close(lock);
  if (free) return nobody("the lock is free");
  const auto content = read_small_file(folder / "attach.json");
  if (!content)
    return error{errc::unavailable, fmt::format("the gateway on '{}' is starting or stopping: try again in a moment", folder.string())};
  boost::system::error_code fault;
  const auto parsed = boost::json::parse(*content, fault);
  const auto* object = fault ? nullptr : parsed.if_object();
  const auto text = [&](std::string_view key) -> std::string {
    const auto* value = object ? object->if_contains(key) : nullptr;
    const auto* string = value ? value->if_string() : nullptr;
    return string ? std::string{*string} : std::string{};
  };
  attachment at{.url = text("url"), .gateway = text("gateway")};
  if (at.url.empty()) return nobody("attach.json cannot be read");
  if (const auto* pid = object->if_contains("pid"); pid && pid->is_int64()) at.pid = static_cast<int>(pid->get_int64());
  return at;
}

result<data_folder> data_folder::open(const fs::path& folder, const std::optional<system_user>& server_user) {
  std::error_code fault;
  const fs::path path = fs::absolute(folder, fault).lexically_normal();
  if (fault || folder.empty()) return error{errc::invalid_argument, "the data folder's name cannot be used; give another --data DIR"};
  fs::create_directories(path.parent_path(), fault);
  // Root keeps the folder and lets the server's user pass through; its name in there is all that user can learn.
  const mode_t mode = server_user ? 0711 : 0700;
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return file_error(fmt::format("could not create the data folder '{}'; give a writable one with --data DIR", path.string()), errno);
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0 || !S_ISDIR(found.st_mode))
    return error{errc::conflict, fmt::format("'{}' is not a folder; give another one with --data DIR", path.string())};
  if (found.st_uid != ::geteuid())
    return error{errc::forbidden, fmt::format("the data folder '{}' belongs to user {}: run `postbus serve` as that user, or give "
                                              "another one with --data DIR",
                                              path.string(), user_name(found.st_uid))};
  const auto lock_path = path / lock_name;
  if (::access(lock_path.c_str(), F_OK) != 0 && !fs::is_empty(path, fault)) {
    const bool cluster = fs::exists(path / "PG_VERSION", fault);
    return error{errc::conflict, fmt::format("'{}' is not empty and was not made by Postbus{}; give another folder with --data DIR{}",
                                             path.string(), cluster ? " (it is a PostgreSQL data folder)" : "",
                                             cluster ? ", or start that server and use it with --db URL" : "")};
  }
  const int lock = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock < 0)
    return file_error(fmt::format("the data folder '{}' is not writable; give another one with --data DIR", path.string()), errno);
  data_folder made{path, -1};
  const struct flock taken = whole_file(F_WRLCK);  // of the open file: a child closes it at exec, the kernel at our end
  if (::fcntl(lock, F_OFD_SETLK, &taken) != 0) {
    char pid[16] = {};
    const auto length = ::pread(lock, pid, sizeof pid - 1, 0);
    ::close(lock);
    return error{errc::conflict, fmt::format("another `postbus serve`{} uses the data folder '{}': stop it first, or give this one another "
                                             "folder with --data DIR",
                                             length > 0 ? fmt::format(" (pid {})", leading_number(pid).value_or(0)) : "", path.string())};
  }
  made.lock_ = lock;
  const auto pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(lock, 0) != 0 || ::pwrite(lock, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
    return file_error(fmt::format("could not write into the data folder '{}'; is its disk full?", path.string()), errno);
  const auto ready = made.prepare(server_user);
  if (!ready) return ready.error();
  return made;
}

result<> data_folder::prepare(const std::optional<system_user>& server_user) {
  ::unlink((path_ / "attach.json").c_str());
  const uid_t owner = server_user ? server_user->uid : ::geteuid();
  const gid_t group = server_user ? server_user->gid : ::getegid();
  sockets_ = path_ / "run";
  if (sockets_.string().size() + socket_name_length > socket_path_limit) {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    const auto name = fmt::format("postbus-{}-{:08x}", ::geteuid(), static_cast<std::uint32_t>(fnv1a(path_.string())));
    sockets_ = fs::path{::geteuid() == 0 ? "/run" : runtime && *runtime == '/' ? runtime : "/tmp"} / name;
    if (sockets_.string().size() + socket_name_length > socket_path_limit) sockets_ = fs::path{"/tmp"} / name;
  }
  return own_folder(sockets_, owner, group, 0700);
}

data_folder::data_folder(data_folder&& other) noexcept
    : path_{std::move(other.path_)}, sockets_{std::move(other.sockets_)}, lock_{std::exchange(other.lock_, -1)} {}

data_folder::~data_folder() {
  if (lock_ < 0) return;
  ::unlink((path_ / "attach.json").c_str());
  ::close(lock_);
}

result<std::string> data_folder::password() {
  const auto file = path_ / "password";
  if (auto saved = read_small_file(file); saved && saved->size() == 64) return *saved;
  if (cluster_major())
    return error{errc::not_found,
                 fmt::format("the file '{}' with the database's password is missing or damaged: put it back, or stop here and set a new "
                             "one of 64 letters with PostgreSQL's single-user mode (alter role postgres password '…')",
                             file.string())};
  unsigned char random[32];
  if (::getrandom(random, sizeof random, 0) != sizeof random) return file_error("the system gave no random bytes", errno);
  std::string made;
  for (const auto byte : random) made += fmt::format("{:02x}", byte);
  const auto written = write_private_file(file, made);
  if (!written) return written.error();
  return made;
}

std::optional<std::uint16_t> data_folder::saved_port() const {
  const auto text = read_small_file(path_ / "port");
  const auto value = text ? leading_number(*text) : std::nullopt;
  if (!value || *value < 1024 || *value > 65535) return std::nullopt;
  return static_cast<std::uint16_t>(*value);
}

result<> data_folder::save_port(std::uint16_t port) { return write_private_file(path_ / "port", fmt::format("{}\n", port)); }

result<> data_folder::write_attachment(const attachment& at) {
  const boost::json::object content{{"url", at.url}, {"gateway", at.gateway}, {"pid", at.pid}};
  return write_private_file(path_ / "attach.json", boost::json::serialize(content));
}

std::optional<int> data_folder::cluster_major() const {
  const auto version = read_small_file(cluster() / "PG_VERSION");
  return version ? leading_number(*version) : std::nullopt;
}

bool is_port_free(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // as PostgreSQL does: a port in TIME_WAIT is free
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool free = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 && ::listen(fd, 1) == 0;
  ::close(fd);
  return free;
}

std::uint16_t find_free_port() {
  std::random_device seed;
  std::uniform_int_distribution<int> choice{20'000, 32'000};  // Linux gives 32768 and up to clients
  for (int attempt = 0; attempt < 200; ++attempt)
    if (const auto port = static_cast<std::uint16_t>(choice(seed)); is_port_free(port)) return port;
  return 0;
}

}  // namespace postbus::postgres
