// An LD_PRELOAD shim that sets a process's wall clock off by as many seconds as stand (binary, 64 bits) in the file that
// WALL_CLOCK_FILE names. The file is mapped: a test moves the clock of a running process. No lock is taken and nothing is
// allocated, because PostgreSQL reads the clock in signal handlers (libfaketime hangs it there). The steady clock goes on.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace {

const std::int64_t none = 0;
const volatile std::int64_t* ahead = &none;
int (*real_clock_gettime)(clockid_t, timespec*);

__attribute__((constructor)) void map() {
  real_clock_gettime = reinterpret_cast<int (*)(clockid_t, timespec*)>(dlsym(RTLD_NEXT, "clock_gettime"));
  const char* const path = std::getenv("WALL_CLOCK_FILE");
  const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  void* const at = mmap(nullptr, sizeof(std::int64_t), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (at != MAP_FAILED) ahead = static_cast<const std::int64_t*>(at);
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  if (real_clock_gettime == nullptr) map();  // somebody's constructor came before ours
  const int result = real_clock_gettime(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return result;
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  timespec t;
  const int result = clock_gettime(CLOCK_REALTIME, &t);
  if (result == 0) *now = {.tv_sec = t.tv_sec, .tv_usec = t.tv_nsec / 1000};
  return result;
}

extern "C" time_t time(time_t* now) noexcept {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (now != nullptr) *now = t.tv_sec;
  return t.tv_sec;
}
