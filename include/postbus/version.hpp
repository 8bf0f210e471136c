#pragma once

// What the installed archives can be linked with. Every public header includes this one.
#if __has_include(<boost/version.hpp>)
#include <boost/version.hpp>
#if BOOST_VERSION / 100 != 1081
#error "This Postbus was built with Boost 1.81; another Boost in the same program breaks both. Put 1.81 first in the include path."
#endif
#endif
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#error "Postbus refuses GCC before 13: it destroys aggregate temporaries twice in expressions with co_await. Use clang or GCC 13."
#endif
#if __cplusplus < 202002L
#error "Postbus needs C++20 or later (-std=c++20)."
#endif

// Kept equal to project(VERSION) in CMakeLists.txt; the build compares them.
#define POSTBUS_VERSION "0.1.0"
