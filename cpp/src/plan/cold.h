// Whether bytes will come from a disk or from the page cache, and what follows from it: a disk
// wants long requests and several of them in flight; what is cached is best read in pieces that
// stay in the CPU's caches, by no more threads than there are CPUs.
#ifndef WEIGHTLIFT_PLAN_COLD_H_
#define WEIGHTLIFT_PLAN_COLD_H_

#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"
#include "weightlift/reader.h"

namespace weightlift {

// Threads that wait for a disk, where the caller did not choose.
inline constexpr int kDiskThreads = 4;

inline int DiskThreads(int chosen) {
  return chosen != 0 ? chosen : std::max(kDiskThreads, PoolThreads());
}

// Whether any of the range is known not to be cached.
inline bool IsCold(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes) {
  const auto* const file = dynamic_cast<const FileReader*>(&reader);
  if (file == nullptr) return false;
  const double cached = file->Residency(offset, nbytes);
  return cached >= 0 && cached < 1;
}

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_COLD_H_
