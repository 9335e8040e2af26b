// System calls that fail on purpose. This header defines, for the one program that includes it, the
// functions of the C library that the io code calls; a test says how they behave:
//
//   faults::Inject inject([](const faults::Call& call) -> std::optional<long> {
//     if (call.name == "pwrite") return -ENOSPC;
//     return std::nullopt;  // as usual
//   });
//
// An answer below zero is an errno; one above is the most bytes that a read or write moves; 0 is
// the end of the file for a read, and success without doing anything for the others.
#ifndef WEIGHTLIFT_TESTS_FAULTS_H_
#define WEIGHTLIFT_TESTS_FAULTS_H_

#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

namespace faults {

struct Call {
  std::string_view name;
  int fd = -1;
  off_t offset = 0;
  int flags = 0;
};

using Hook = std::function<std::optional<long>(const Call&)>;

inline Hook& CurrentHook() {
  static Hook hook;
  return hook;
}

// While it lives. One at a time; the hook is called on the threads that make the calls.
class Inject {
 public:
  explicit Inject(Hook hook) { CurrentHook() = std::move(hook); }
  ~Inject() { CurrentHook() = nullptr; }
  Inject(const Inject&) = delete;
  Inject& operator=(const Inject&) = delete;
};

inline bool IsDirect(int fd) { return (fcntl(fd, F_GETFL) & O_DIRECT) != 0; }

inline std::optional<long> Ask(const Call& call) {
  return CurrentHook() ? CurrentHook()(call) : std::nullopt;
}

// nullopt: go on, moving at most `nbytes` bytes; else what the function returns, with errno set.
inline std::optional<long> Transfer(const Call& call, std::size_t& nbytes) {
  const std::optional<long> answer = Ask(call);
  if (!answer) return std::nullopt;
  if (*answer < 0) {
    errno = static_cast<int>(-*answer);
    return -1;
  }
  if (*answer == 0) return 0;
  nbytes = std::min(nbytes, static_cast<std::size_t>(*answer));
  return std::nullopt;
}

inline std::optional<int> Plain(const Call& call) {
  const std::optional<long> answer = Ask(call);
  if (!answer) return std::nullopt;
  if (*answer >= 0) return 0;
  errno = static_cast<int>(-*answer);
  return -1;
}

}  // namespace faults

extern "C" {

ssize_t pread(int fd, void* data, size_t nbytes, off_t offset) {
  if (const auto answer = faults::Transfer({.name = "pread", .fd = fd, .offset = offset}, nbytes)) {
    return *answer;
  }
  return syscall(SYS_pread64, fd, data, nbytes, offset);
}

ssize_t pwrite(int fd, const void* data, size_t nbytes, off_t offset) {
  if (const auto answer =
          faults::Transfer({.name = "pwrite", .fd = fd, .offset = offset}, nbytes)) {
    return *answer;
  }
  return syscall(SYS_pwrite64, fd, data, nbytes, offset);
}

// Cut short inside the first part only: that is where the arithmetic of the rest is.
ssize_t preadv(int fd, const iovec* parts, int count, off_t offset) {
  std::size_t nbytes = parts[0].iov_len;
  const auto answer = faults::Transfer({.name = "preadv", .fd = fd, .offset = offset}, nbytes);
  if (answer) return *answer;
  if (nbytes < parts[0].iov_len) {
    return syscall(SYS_pread64, fd, parts[0].iov_base, nbytes, offset);
  }
  return syscall(SYS_preadv, fd, parts, count, offset, 0);
}

ssize_t preadv2(int fd, const iovec* parts, int count, off_t offset, int flags) {
  const faults::Call call{.name = "preadv2", .fd = fd, .offset = offset, .flags = flags};
  if (const auto answer = faults::Plain(call)) return *answer;
  return syscall(SYS_preadv2, fd, parts, count, offset, 0, flags);
}

int fdatasync(int fd) {
  if (const auto answer = faults::Plain({.name = "fdatasync", .fd = fd})) return *answer;
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

int fsync(int fd) {
  if (const auto answer = faults::Plain({.name = "fsync", .fd = fd})) return *answer;
  return static_cast<int>(syscall(SYS_fsync, fd));
}

int fallocate(int fd, int mode, off_t offset, off_t nbytes) {
  if (const auto answer = faults::Plain({.name = "fallocate", .fd = fd})) return *answer;
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, nbytes));
}

int flock(int fd, int operation) noexcept {
  if (const auto answer = faults::Plain({.name = "flock", .fd = fd})) return *answer;
  return static_cast<int>(syscall(SYS_flock, fd, operation));
}

int fchown(int fd, uid_t owner, gid_t group) noexcept {
  if (const auto answer = faults::Plain({.name = "fchown", .fd = fd})) return *answer;
  return static_cast<int>(syscall(SYS_fchown, fd, owner, group));
}

int linkat(int from_fd, const char* from, int to_fd, const char* to, int flags) noexcept {
  if (const auto answer = faults::Plain({.name = "linkat", .flags = flags})) return *answer;
  return static_cast<int>(syscall(SYS_linkat, from_fd, from, to_fd, to, flags));
}

int renameat(int from_fd, const char* from, int to_fd, const char* to) noexcept {
  if (const auto answer = faults::Plain({.name = "renameat"})) return *answer;
  return static_cast<int>(syscall(SYS_renameat2, from_fd, from, to_fd, to, 0));
}

int openat(int directory, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (const auto answer = faults::Plain({.name = "openat", .fd = directory, .flags = flags})) {
    return *answer;
  }
  return static_cast<int>(syscall(SYS_openat, directory, path, flags, mode));
}

}  // extern "C"

#endif  // WEIGHTLIFT_TESTS_FAULTS_H_
