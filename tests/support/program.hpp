#pragma once
#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace postbus::testing_support {

/** The built `postbus` as a child process, with no POSTBUS_… or DATABASE_URL from outside in its environment. */
class program {
public:
  using words = std::vector<std::string>;
  using environment = std::map<std::string, std::string>;

  explicit program(words arguments, environment extra = {});
  program(const program&) = delete;
  program& operator=(const program&) = delete;
  ~program();  ///< kills it if it still runs

  /** Gives it input; close_input() ends it. */
  void write(std::string_view input);
  void close_input();
  /** The next line of stdout, or of stderr; nothing when it has ended or `patience` has passed. */
  std::optional<std::string> line(std::chrono::milliseconds patience = std::chrono::seconds{30});
  std::optional<std::string> error_line(std::chrono::milliseconds patience = std::chrono::seconds{30});
  void signal(int number) const;
  /** Waits for its end; the exit status, or 128 and the number of the signal. Throws std::runtime_error after `patience`. */
  int wait(std::chrono::milliseconds patience = std::chrono::seconds{60});
  /** What was not taken by line() and error_line(); after wait(). */
  std::string rest_of_output();
  std::string rest_of_errors();
  pid_t pid() const { return pid_; }

private:
  struct pipe {
    int fd{-1};
    std::string text;
    bool ended{};
  };
  bool fill(pipe& from, std::chrono::steady_clock::time_point until);
  std::optional<std::string> take_line(pipe& from, std::chrono::milliseconds patience);

  pid_t pid_{-1};
  int input_{-1};
  pipe output_, errors_;
  std::optional<int> status_;
};

/** A run to its end. */
struct outcome {
  int status{};
  std::string out, err;
};
outcome run_program(program::words arguments, program::environment extra = {}, std::string_view input = {});

}  // namespace postbus::testing_support
