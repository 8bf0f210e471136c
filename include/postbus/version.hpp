#pragma once

// Kept equal to project(VERSION) in CMakeLists.txt; the build compares them.
#define POSTBUS_VERSION "0.1.0"

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#error "Postbus refuses GCC before 13: it destroys aggregate temporaries twice in expressions with co_await. Use clang 16 or later, or GCC 13."
#endif
#if __cplusplus < 202002L
#error "Postbus needs C++20 or later (-std=c++20)."
#endif
