#pragma once
#include <string>

/** What the texts given to options may look like. Each says what is wrong with one; nothing where it fits. */
namespace postbus::app {

std::string check_duration(const std::string& text);
std::string check_consumer(const std::string& text);
std::string check_filter(const std::string& text);
std::string check_count(const std::string& text);
std::string check_port(const std::string& text);
/** For what an unset variable of a shell would leave out in silence. */
std::string check_given(const std::string& text);

}  // namespace postbus::app
