// An LD_PRELOAD shim that makes each fdatasync and fsync of PostgreSQL slower, as on a disk of a cloud: first the real
// call, then a sleep of as many microseconds as stand (binary, 32 bits) in the file that SLOW_SYNC_FILE names. The file
// is mapped, so a runner changes the delay of a running server: both arms of a comparison meet the same server.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>

namespace {

const volatile std::uint32_t* delay_us() {
  static const volatile std::uint32_t* const mapped = [] {
    static const std::uint32_t none = 0;
    const char* const path = std::getenv("SLOW_SYNC_FILE");
    const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return &none;
    void* const at = mmap(nullptr, sizeof(std::uint32_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? &none : static_cast<const std::uint32_t*>(at);
  }();
  return mapped;
}

int slowed(const char* name, int fd) {
  const auto real = reinterpret_cast<int (*)(int)>(dlsym(RTLD_NEXT, name));
  const int result = real(fd);
  const int problem = errno;
  if (const std::uint32_t us = *delay_us(); us > 0) {
    const timespec wait{.tv_sec = us / 1'000'000, .tv_nsec = static_cast<long>(us % 1'000'000) * 1000};
    nanosleep(&wait, nullptr);
  }
  errno = problem;
  return result;
}

}  // namespace

extern "C" int fdatasync(int fd) { return slowed("fdatasync", fd); }
extern "C" int fsync(int fd) { return slowed("fsync", fd); }
