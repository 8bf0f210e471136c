#include "support/program.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <utility>

extern char** environ;

namespace postbus::testing_support {
namespace {

using clock = std::chrono::steady_clock;

bool is_ours(std::string_view variable) {
  return variable.starts_with("POSTBUS_") || variable.starts_with("DATABASE_URL=") || variable.starts_with("PG");
}

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error{std::strerror(errno)};
  return ends;
}

}  // namespace

program::program(words arguments, environment extra) {
  arguments.insert(arguments.begin(), POSTBUS_BINARY);
  std::vector<std::string> variables;
  for (char** each = environ; *each; ++each)
    if (!is_ours(*each)) variables.emplace_back(*each);
  for (const auto& [name, value] : extra) variables.push_back(name + "=" + value);
  std::vector<char*> argv, envp;
  for (auto& word : arguments) argv.push_back(word.data());
  for (auto& variable : variables) envp.push_back(variable.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);

  const auto in = make_pipe(), out = make_pipe(), err = make_pipe();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  ::posix_spawn_file_actions_adddup2(&actions, err[1], 2);
  const int failed = ::posix_spawn(&pid_, argv.front(), &actions, nullptr, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  input_ = in[1];
  output_.fd = out[0];
  errors_.fd = err[0];
  if (failed != 0) throw std::runtime_error{std::strerror(failed)};
}

program::~program() {
  if (!status_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  close_input();
  ::close(output_.fd);
  ::close(errors_.fd);
}

void program::write(std::string_view input) {
  while (!input.empty()) {
    const auto put = ::write(input_, input.data(), input.size());
    if (put < 0) throw std::runtime_error{std::strerror(errno)};
    input.remove_prefix(static_cast<std::size_t>(put));
  }
}

void program::close_input() {
  if (input_ >= 0) ::close(input_);
  input_ = -1;
}

/** Reads from both pipes, so that a full one never holds the program up; false when the time is up or `from` has ended. */
bool program::fill(pipe& from, clock::time_point until) {
  while (!from.ended) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock::now()).count();
    if (left <= 0) return false;
    std::array<pollfd, 2> watched{pollfd{output_.ended ? -1 : output_.fd, POLLIN, 0}, pollfd{errors_.ended ? -1 : errors_.fd, POLLIN, 0}};
    if (::poll(watched.data(), watched.size(), static_cast<int>(left)) <= 0) continue;
    bool got_some = false;
    for (auto* each : {&output_, &errors_}) {
      if (watched[each == &output_ ? 0 : 1].revents == 0) continue;
      std::array<char, 64 * 1024> block;
      const auto got = ::read(each->fd, block.data(), block.size());
      if (got <= 0)
        each->ended = true;
      else
        each->text.append(block.data(), static_cast<std::size_t>(got));
      got_some |= each == &from && got > 0;
    }
    if (got_some) return true;
  }
  return false;
}

std::optional<std::string> program::take_line(pipe& from, std::chrono::milliseconds patience) {
  const auto until = clock::now() + patience;
  for (;;) {
    if (const auto end = from.text.find('\n'); end != std::string::npos) {
      auto line = from.text.substr(0, end);
      from.text.erase(0, end + 1);
      return line;
    }
    if (!fill(from, until)) return std::nullopt;
  }
}

std::optional<std::string> program::line(std::chrono::milliseconds patience) { return take_line(output_, patience); }
std::optional<std::string> program::error_line(std::chrono::milliseconds patience) { return take_line(errors_, patience); }
void program::signal(int number) const { ::kill(pid_, number); }

int program::wait(std::chrono::milliseconds patience) {
  close_input();
  const auto until = clock::now() + patience;
  while (fill(output_, until) || fill(errors_, until)) {
  }
  while (!status_) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (clock::now() > until) {
      throw std::runtime_error{"postbus did not end in time"};
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
  }
  return *status_;
}

std::string program::rest_of_output() { return std::exchange(output_.text, {}); }
std::string program::rest_of_errors() { return std::exchange(errors_.text, {}); }

outcome run_program(program::words arguments, program::environment extra, std::string_view input) {
  program run{std::move(arguments), std::move(extra)};
  run.write(input);
  const int status = run.wait();
  return {status, run.rest_of_output(), run.rest_of_errors()};
}

}  // namespace postbus::testing_support
