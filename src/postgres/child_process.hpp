#pragma once
#include <sys/types.h>

#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace postbus::postgres {

/** A user of the operating system that a child process runs as. */
struct system_user {
  uid_t uid{};
  gid_t gid{};
  std::string name;
};

/** Looks `name` up in the user database; errc::not_found. */
result<system_user> find_user(const std::string& name);

struct child_options {
  std::vector<std::string> arguments;  ///< [0] is the program's path; no PATH search
  std::optional<system_user> user{};   ///< needs root; nullopt: our own user
  std::string passed_file{};           ///< when not empty, the child can read it as /proc/self/fd/3 (for secrets: no file, no argument)
  std::string working_folder{"/"};
  int death_signal{SIGKILL};           ///< sent to the child when the *thread* that spawned it ends (prctl PR_SET_PDEATHSIG)
};

/**
 * A direct child in a session of its own (a terminal's Ctrl-C does not reach it), stdout and stderr on one pipe, stdin
 * on /dev/null, no other descriptor inherited, PG* and LC_* variables removed. Destroying it does not end the child.
 * Used by one thread, which must outlive the child (see death_signal).
 */
class child_process {
public:
  static result<child_process> spawn(const child_options& options);

  child_process(child_process&& other) noexcept;
  child_process& operator=(child_process&& other) noexcept;
  ~child_process();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_; }   ///< readable once the child has ended
  int output() const { return output_; } ///< non-blocking; -1 after its end was read
  /** Appends what is there to `to`; closes output() at its end. */
  void read_output(std::string& to);
  /** Sends a signal; nothing happens when the child has ended. */
  void signal(int number) const;
  /** Exit status as waitpid's, nullopt while the child runs. Reaps it. */
  std::optional<int> ended();

private:
  child_process(pid_t pid, int pidfd, int output) : pid_{pid}, pidfd_{pidfd}, output_{output} {}
  pid_t pid_{-1};
  int pidfd_{-1};
  int output_{-1};
  std::optional<int> status_;
};

struct finished_process {
  int status{};        ///< as waitpid's
  std::string output;  ///< stdout and stderr
  bool ok() const;
};

/** Runs a program to its end; past the deadline it is killed and errc::timed_out returned. Blocks. */
result<finished_process> run_process(const child_options& options, steady::duration deadline);

/** "exit status 1" or "signal 9 (Killed)". */
std::string describe_status(int status);

/** Creates or replaces a file as `user` (never through a symbolic link); blocks. errc::io. */
result<> write_file_as(const std::optional<system_user>& user, const std::string& path, std::string_view content, mode_t mode);

}  // namespace postbus::postgres
