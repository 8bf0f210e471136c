#include "postgres/child_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

extern char** environ;

namespace postbus::postgres {
namespace {

constexpr int passed_descriptor = 3;

error system_error(std::string text, int number) { return {errc::io, std::move(text), std::strerror(number)}; }

/** A descriptor that closes itself. */
class descriptor {
public:
  explicit descriptor(int fd = -1) : fd_{fd} {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

private:
  int fd_;
};

std::vector<std::string> clean_environment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view view{*entry};
    if (!view.starts_with("PG") && !view.starts_with("LC_") && !view.starts_with("LANG")) kept.emplace_back(view);
  }
  kept.emplace_back("LC_ALL=C");  // its messages are searched for causes
  return kept;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (auto& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(wrote));
  }
  return true;
}

// Between fork and exec only async-signal-safe calls are allowed: this process has threads. The raw system calls avoid
// glibc's set*id wrappers, which talk to "all threads".
bool become(const system_user& user) {
  return ::syscall(SYS_setgroups, 0, nullptr) == 0 && ::syscall(SYS_setresgid, user.gid, user.gid, user.gid) == 0 &&
         ::syscall(SYS_setresuid, user.uid, user.uid, user.uid) == 0;
}

void default_signals() {
  struct sigaction plain{};
  plain.sa_handler = SIG_DFL;
  for (int number = 1; number < 32; ++number) ::sigaction(number, &plain, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void fail_child(int report, int step) {
  const int said[2] = {step, errno};
  if (::write(report, said, sizeof said) < 0) ::_exit(126);
  ::_exit(127);
}

enum child_step : int { step_user, step_folder, step_exec };

}  // namespace

result<system_user> find_user(const std::string& name) {
  std::vector<char> buffer(16384);
  passwd entry{};
  passwd* found = nullptr;
  ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (!found) return error{errc::not_found, fmt::format("there is no user '{}' on this system", name)};
  return system_user{.uid = entry.pw_uid, .gid = entry.pw_gid, .name = name};
}

result<child_process> child_process::spawn(const child_options& options) {
  int pipe_ends[2], report_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) return system_error("no pipe for a child process", errno);
  descriptor output{pipe_ends[0]}, output_write{pipe_ends[1]};
  if (::pipe2(report_ends, O_CLOEXEC) != 0) return system_error("no pipe for a child process", errno);
  descriptor report{report_ends[0]}, report_write{report_ends[1]};
  const descriptor null{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  const descriptor passed{options.passed_file.empty() ? -1 : ::memfd_create("passed", MFD_CLOEXEC)};
  if (!options.passed_file.empty() && (passed.get() < 0 || !write_all(passed.get(), options.passed_file)))
    return system_error("no memory file for a child process", errno);

  auto arguments = options.arguments;
  auto environment = clean_environment();
  const auto argv = pointers(arguments);
  const auto envp = pointers(environment);
  const pid_t parent = ::getpid();

  const pid_t pid = ::fork();
  if (pid < 0) return system_error("could not start a child process", errno);
  if (pid == 0) {
    ::setsid();
    if (options.user && !become(*options.user)) fail_child(report_write.get(), step_user);
    // After become(): a change of user clears the death signal. If the parent went away before, say so by leaving.
    ::prctl(PR_SET_PDEATHSIG, options.death_signal);
    if (::getppid() != parent) ::_exit(0);
    ::umask(077);
    if (::chdir(options.working_folder.c_str()) != 0) fail_child(report_write.get(), step_folder);
    default_signals();
    ::dup2(null.get(), 0);
    ::dup2(output_write.get(), 1);
    ::dup2(output_write.get(), 2);
    int report_fd = report_write.get();
    if (passed.get() >= 0) {
      if (report_fd == passed_descriptor) report_fd = ::fcntl(report_fd, F_DUPFD_CLOEXEC, passed_descriptor + 1);
      if (passed.get() == passed_descriptor) {
        ::fcntl(passed_descriptor, F_SETFD, 0);
      } else {
        ::dup2(passed.get(), passed_descriptor);
      }
      ::lseek(passed_descriptor, 0, SEEK_SET);
    }
    // Whatever a library opened without O_CLOEXEC must not live on in the child.
    ::syscall(SYS_close_range, passed.get() >= 0 ? passed_descriptor + 1U : 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
    ::execve(argv[0], argv.data(), envp.data());
    fail_child(report_fd, step_exec);
  }

  {
    descriptor closed{report_write.release()};
  }
  {
    descriptor closed{output_write.release()};
  }
  int said[2] = {0, 0};
  ssize_t got;
  do {
    got = ::read(report.get(), said, sizeof said);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof said) {
    ::waitpid(pid, nullptr, 0);
    switch (said[0]) {
      case step_user: return system_error(fmt::format("could not become the user '{}'", options.user->name), said[1]);
      case step_folder: return system_error(fmt::format("could not enter '{}'", options.working_folder), said[1]);
      default: return system_error(fmt::format("could not run '{}'", options.arguments[0]), said[1]);
    }
  }
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int number = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return system_error("this kernel has no pidfd (Linux 5.3 or later is needed)", number);
  }
  ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  ::fcntl(output.get(), F_SETFL, O_NONBLOCK);
  return child_process{pid, pidfd, output.release()};
}

child_process::child_process(child_process&& other) noexcept
    : pid_{std::exchange(other.pid_, -1)},
      pidfd_{std::exchange(other.pidfd_, -1)},
      output_{std::exchange(other.output_, -1)},
      status_{other.status_} {}

child_process& child_process::operator=(child_process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  std::swap(output_, other.output_);
  std::swap(status_, other.status_);
  return *this;
}

child_process::~child_process() {
  if (pidfd_ >= 0) ::close(pidfd_);
  if (output_ >= 0) ::close(output_);
}

void child_process::read_output(std::string& to) {
  char bytes[4096];
  while (output_ >= 0) {
    const auto got = ::read(output_, bytes, sizeof bytes);
    if (got > 0) {
      to.append(bytes, static_cast<std::size_t>(got));
    } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
      ::close(std::exchange(output_, -1));
    } else if (errno == EAGAIN) {
      return;
    }
  }
}

void child_process::signal(int number) const {
  if (!status_) ::syscall(SYS_pidfd_send_signal, pidfd_, number, nullptr, 0);
}

std::optional<int> child_process::ended() {
  int status = 0;
  if (!status_ && ::waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
  return status_;
}

bool finished_process::ok() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }

result<finished_process> run_process(const child_options& options, steady::duration deadline) {
  const auto end = steady::now() + deadline;
  auto child = child_process::spawn(options);
  if (!child) return child.error();
  finished_process done;
  for (bool killed = false;;) {
    child->read_output(done.output);
    if (const auto status = child->ended()) {
      child->read_output(done.output);
      done.status = *status;
      if (killed) return error{errc::timed_out, fmt::format("'{}' did not end in time", options.arguments[0]), std::move(done.output)};
      return done;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - steady::now()).count();
    if (left <= 0 && !killed) {
      child->signal(SIGKILL);
      killed = true;
    }
    pollfd waited[2] = {{child->pidfd(), POLLIN, 0}, {child->output(), POLLIN, 0}};
    ::poll(waited, 2, killed ? -1 : static_cast<int>(left));
  }
}

std::string describe_status(int status) {
  if (WIFSIGNALED(status)) return fmt::format("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  return fmt::format("exit status {}", WEXITSTATUS(status));
}

result<> write_file_as(const std::optional<system_user>& user, const std::string& path, std::string_view content, mode_t mode) {
  int report_ends[2];
  if (::pipe2(report_ends, O_CLOEXEC) != 0) return system_error("no pipe for a child process", errno);
  const descriptor report{report_ends[0]};
  descriptor report_write{report_ends[1]};
  const pid_t pid = ::fork();
  if (pid < 0) return system_error("could not start a child process", errno);
  if (pid == 0) {
    if (user && !become(*user)) fail_child(report_write.get(), step_user);
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0 || !write_all(fd, content) || ::fsync(fd) != 0) fail_child(report_write.get(), step_folder);
    ::_exit(0);
  }
  {
    descriptor closed{report_write.release()};
  }
  int said[2] = {0, 0};
  const auto got = ::read(report.get(), said, sizeof said);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (got == sizeof said) return system_error(fmt::format("could not write '{}'", path), said[1]);
  if (status != 0) return error{errc::io, fmt::format("could not write '{}'", path), describe_status(status)};
  return {};
}

}  // namespace postbus::postgres
