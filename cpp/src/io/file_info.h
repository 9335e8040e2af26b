// What kind of file, and of file system, a descriptor refers to.
#ifndef WEIGHTLIFT_IO_FILE_INFO_H_
#define WEIGHTLIFT_IO_FILE_INFO_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <string_view>

namespace weightlift {

// "a directory", "a FIFO", ... for messages.
std::string_view FileKind(mode_t mode) noexcept;

// Whether the file lives on a network file system, or one that a user process serves: its pages can
// fail to arrive, which a mapping turns into SIGBUS.
bool OnNetwork(int fd) noexcept;

// Whether the file system keeps its files in memory only.
bool InMemory(int fd) noexcept;

inline std::int64_t MtimeNs(const struct stat& info) noexcept {
  return std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_FILE_INFO_H_
