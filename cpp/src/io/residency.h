// How much of a file is in the page cache.
#ifndef WEIGHTLIFT_IO_RESIDENCY_H_
#define WEIGHTLIFT_IO_RESIDENCY_H_

#include <cstdint>

namespace weightlift {

// The cached fraction of the pages that [offset, offset + nbytes) touches, in [0, 1]; 1 for no
// bytes; -1 when the system cannot tell. One system call where the kernel has cachestat
// (Linux 6.5), a temporary mapping and mincore before. The range must lie inside the file.
double CachedFraction(int fd, std::uint64_t offset, std::uint64_t nbytes) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_RESIDENCY_H_
