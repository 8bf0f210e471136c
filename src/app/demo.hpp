#pragma once
#include <boost/asio/awaitable.hpp>

#include <string>

namespace postbus::app {

struct demo_options {
  std::string conninfo;  ///< a database whose schema postbus is installed; the role may create tables in `public`
};

/**
 * Drives the stories of examples/ for `serve --demo`: a shop whose table `public.orders` changes a few times a second
 * and never holds more than 16 rows, and two applications that give each other jobs over the channels `workerB` and
 * `workA`. A table `public.orders` that is not the example's is left alone; then, and where tables cannot be watched,
 * only the jobs go on and the log says why. A lost database is come back to with back-off.
 * Never returns by itself: ends when its coroutine is cancelled or its executor stops. Uses one session of its own.
 */
boost::asio::awaitable<void> demo(demo_options options);

}  // namespace postbus::app
