// Reading files, and putting them out of the page cache, in tests.
#ifndef WEIGHTLIFT_TESTS_CACHE_TOOLS_H_
#define WEIGHTLIFT_TESTS_CACHE_TOOLS_H_

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "temp_dir.h"
#include "weightlift/reader.h"

inline Bytes ReadAt(const weightlift::Reader& reader, std::uint64_t offset, std::size_t nbytes) {
  Bytes bytes(nbytes);
  reader.ReadAt(offset, bytes);
  return bytes;
}

inline void DropCache(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY);
  fdatasync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

#endif  // WEIGHTLIFT_TESTS_CACHE_TOOLS_H_
