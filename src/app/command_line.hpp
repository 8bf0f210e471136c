#pragma once

namespace postbus::app {

/** The `postbus` program: parses the command line, runs the command, returns the exit status. */
int run(int argc, char** argv);

}  // namespace postbus::app
