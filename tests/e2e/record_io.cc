// Notes what a program does to files, and lets it fail or wait, for the tests of checkpoints that
// tests/e2e/io_support.py runs: preloaded into it (LD_PRELOAD).
//
// The program itself says what goes wrong: io_fail("sync", 3, EIO) lets the third call that syncs
// fail from then on, once; io_failed() says whether one has. io_hold(1) lets all writes and syncs
// wait until io_hold(0): a disk that is very slow.
//
// WEIGHTLIFT_IO_LOG gets a line for each call that has succeeded, in order; what was written goes
// to WEIGHTLIFT_IO_DATA.
//   new INODE | link DIRECTORY NAME INODE | rename DIRECTORY NAME DIRECTORY NAME INODE | unlink
//   DIRECTORY NAME write INODE OFFSET LENGTH (of the next bytes in the data) | size INODE BYTES |
//   sync INODE | mark WORDS
// Directories are inodes, too. A mark is what the program says itself, by the function io_mark.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>

namespace {

std::mutex g_mutex;

struct Fault {
  std::string call;
  int left = 0;  // calls until it happens; 0: it has, or there is none
  int error = 0;
};
std::mutex g_fault_mutex;
std::condition_variable g_released;
Fault g_fault;
bool g_held = false;

// Whether a call is to fail; errno is why. A held one waits first.
bool Fails(const char* call, bool waits = false) {
  std::unique_lock lock(g_fault_mutex);
  if (waits) g_released.wait(lock, [] { return !g_held; });
  if (g_fault.left == 0 || g_fault.call != call || --g_fault.left > 0) return false;
  errno = g_fault.error;
  return true;
}

template <typename Function>
Function Real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

int Open(const char* variable) {
  const char* const path = std::getenv(variable);
  if (path == nullptr) return -1;
  static const auto real = Real<int (*)(const char*, int, ...)>("open64");
  return real(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

void Put(int fd, const void* data, std::size_t size) {
  static const auto real = Real<ssize_t (*)(int, const void*, std::size_t)>("write");
  if (fd >= 0 && real(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
}

void Note(const std::string& line) {
  static const int fd = Open("WEIGHTLIFT_IO_LOG");
  Put(fd, (line + "\n").data(), line.size() + 1);
}

std::string InodeOf(int fd) {
  struct stat info = {};
  return fstat(fd, &info) == 0 ? std::to_string(info.st_ino) : "0";
}

std::string InodeAt(int directory, const std::string& path) {
  struct stat info = {};
  const bool found = fstatat(directory, path.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  return found ? std::to_string(info.st_ino) : "0";
}

// "DIRECTORY NAME" of a path.
std::string Place(int directory, const std::string& path) {
  std::string text = path;
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  const std::size_t slash = text.rfind('/');
  const std::string parent = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : text.substr(0, slash);
  return InodeAt(directory, parent) + " " + text.substr(slash + 1);
}

int OpenAt(int directory, const char* path, int flags, mode_t mode) {
  static const auto real = Real<int (*)(int, const char*, int, ...)>("openat64");
  if ((flags & (O_CREAT | O_TMPFILE)) != 0 && Fails("open")) return -1;
  const std::lock_guard lock(g_mutex);
  const bool made =
      (flags & O_CREAT) != 0 && faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
  const int fd = real(directory, path, flags, mode);
  if (fd < 0) return fd;
  if ((flags & O_TMPFILE) == O_TMPFILE || made) Note("new " + InodeOf(fd));
  if (made) Note("link " + Place(directory, path) + " " + InodeOf(fd));
  if ((flags & O_TRUNC) != 0) Note("size " + InodeOf(fd) + " 0");
  return fd;
}

ssize_t WriteAt(int fd, const void* data, std::size_t size, off64_t offset) {
  static const auto real = Real<ssize_t (*)(int, const void*, std::size_t, off64_t)>("pwrite64");
  static const int copy = Open("WEIGHTLIFT_IO_DATA");
  if (Fails("write", true)) return -1;
  const std::lock_guard lock(g_mutex);
  const ssize_t done = real(fd, data, size, offset);
  if (done > 0) {
    Put(copy, data, static_cast<std::size_t>(done));
    Note("write " + InodeOf(fd) + " " + std::to_string(offset) + " " + std::to_string(done));
  }
  return done;
}

int Resize(const char* name, int fd, off64_t size) {
  const auto real = Real<int (*)(int, off64_t)>(name);
  const std::lock_guard lock(g_mutex);
  const int result = real(fd, size);
  if (result == 0) Note("size " + InodeOf(fd) + " " + std::to_string(size));
  return result;
}

int Sync(const char* name, int fd) {
  const auto real = Real<int (*)(int)>(name);
  if (Fails("sync", true)) return -1;
  const std::lock_guard lock(g_mutex);
  const int result = real(fd);
  if (result == 0) Note("sync " + InodeOf(fd));
  return result;
}

mode_t ModeOf(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

}  // namespace

extern "C" {

void io_mark(const char* words) {
  const std::lock_guard lock(g_mutex);
  Note(std::string("mark ") + words);
}

void io_fail(const char* call, int after, int error) {
  const std::lock_guard lock(g_fault_mutex);
  g_fault = {call, after, error};
}

int io_failed() {
  const std::lock_guard lock(g_fault_mutex);
  return g_fault.left == 0 ? 1 : 0;
}

void io_hold(int held) {
  const std::lock_guard lock(g_fault_mutex);
  g_held = held != 0;
  g_released.notify_all();
}

#define OPENS_AT(NAME)                                        \
  int NAME(int directory, const char* path, int flags, ...) { \
    va_list arguments;                                        \
    va_start(arguments, flags);                               \
    const mode_t mode = ModeOf(flags, arguments);             \
    va_end(arguments);                                        \
    return OpenAt(directory, path, flags, mode);              \
  }
OPENS_AT(openat)
OPENS_AT(openat64)

#define OPENS(NAME)                               \
  int NAME(const char* path, int flags, ...) {    \
    va_list arguments;                            \
    va_start(arguments, flags);                   \
    const mode_t mode = ModeOf(flags, arguments); \
    va_end(arguments);                            \
    return OpenAt(AT_FDCWD, path, flags, mode);   \
  }
OPENS(open)
OPENS(open64)

ssize_t pwrite(int fd, const void* data, std::size_t size, off_t offset) {
  return WriteAt(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void* data, std::size_t size, off64_t offset) {
  return WriteAt(fd, data, size, offset);
}

int fsync(int fd) { return Sync("fsync", fd); }
int fdatasync(int fd) { return Sync("fdatasync", fd); }
int ftruncate(int fd, off_t size) { return Resize("ftruncate64", fd, size); }
int ftruncate64(int fd, off64_t size) { return Resize("ftruncate64", fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t size) {
  static const auto real = Real<int (*)(int, int, off64_t, off64_t)>("fallocate64");
  if (Fails("allocate")) return -1;
  const std::lock_guard lock(g_mutex);
  const int result = real(fd, mode, offset, size);
  if (result == 0) Note("size " + InodeOf(fd) + " " + std::to_string(offset + size));
  return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  return fallocate(fd, mode, offset, size);
}

int mkdirat(int directory, const char* path, mode_t mode) {
  static const auto real = Real<int (*)(int, const char*, mode_t)>("mkdirat");
  if (Fails("mkdir")) return -1;
  const std::lock_guard lock(g_mutex);
  const int result = real(directory, path, mode);
  if (result == 0) {
    Note("new " + InodeAt(directory, path));
    Note("link " + Place(directory, path) + " " + InodeAt(directory, path));
  }
  return result;
}
int mkdir(const char* path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from, const char* old_path, int to, const char* new_path, int flags) {
  static const auto real = Real<int (*)(int, const char*, int, const char*, int)>("linkat");
  if (Fails("link")) return -1;
  const std::lock_guard lock(g_mutex);
  const int result = real(from, old_path, to, new_path, flags);
  if (result == 0) Note("link " + Place(to, new_path) + " " + InodeAt(to, new_path));
  return result;
}
int link(const char* old_path, const char* new_path) {
  return linkat(AT_FDCWD, old_path, AT_FDCWD, new_path, 0);
}

int renameat(int from, const char* old_path, int to, const char* new_path) {
  static const auto real = Real<int (*)(int, const char*, int, const char*)>("renameat");
  if (Fails("rename")) return -1;
  const std::lock_guard lock(g_mutex);
  const std::string line =
      Place(from, old_path) + " " + Place(to, new_path) + " " + InodeAt(from, old_path);
  const int result = real(from, old_path, to, new_path);
  if (result == 0) Note("rename " + line);
  return result;
}
int rename(const char* old_path, const char* new_path) {
  return renameat(AT_FDCWD, old_path, AT_FDCWD, new_path);
}

int unlinkat(int directory, const char* path, int flags) {
  static const auto real = Real<int (*)(int, const char*, int)>("unlinkat");
  const std::lock_guard lock(g_mutex);
  const std::string place = Place(directory, path);
  const int result = real(directory, path, flags);
  if (result == 0) Note("unlink " + place);
  return result;
}
int unlink(const char* path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char* path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

}  // extern "C"
