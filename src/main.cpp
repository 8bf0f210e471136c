#include "app/command_line.hpp"

int main(int argc, char** argv) { return postbus::app::run(argc, argv); }
