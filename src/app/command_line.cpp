#include "app/command_line.hpp"

#include <cstdio>

namespace postbus::app {

int run(int, char**) {
  std::puts("postbus 0.1.0");
  return 0;
}

}  // namespace postbus::app
