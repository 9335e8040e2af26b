// How much of a file is in the page cache.
#ifndef WEIGHTLIFT_IO_PAGE_CACHE_PROBE_H_
#define WEIGHTLIFT_IO_PAGE_CACHE_PROBE_H_

#include <cstdint>
#include <mutex>

#include "io/unique_fd.h"

namespace weightlift {

// Asks about one open file; thread-safe.
class PageCacheProbe {
 public:
  // The descriptor must stay open while this object lives.
  explicit PageCacheProbe(int fd) noexcept : fd_(fd) {}

  // The cached fraction of the pages that [offset, offset + nbytes) touches, in [0, 1]; 1 for no
  // bytes; -1 when the system cannot tell. Exact and one system call where the kernel has
  // cachestat (Linux 6.5) and lets us ask, which it does for files that we own or may write; else
  // an estimate by SampledFraction. The range must lie inside the file.
  double CachedFraction(std::uint64_t offset, std::uint64_t nbytes) const noexcept;

  // The fraction of a few pages, evenly spread over the range, that can be read without waiting.
  // Needs no rights but to read; a page that was missing may be cached afterwards.
  double SampledFraction(std::uint64_t offset, std::uint64_t nbytes) const noexcept;

 private:
  const int fd_;
  mutable std::once_flag sampler_once_;
  mutable UniqueFd sampler_;  // the same file, without reading ahead
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_PAGE_CACHE_PROBE_H_
