// Whether bytes will come from a disk or from the page cache, and what follows from it: a disk
// wants long requests and several of them in flight; what is cached is best read in pieces that
// stay in the CPU's caches, by no more threads than there are CPUs.
#ifndef WEIGHTLIFT_PLAN_COLD_H_
#define WEIGHTLIFT_PLAN_COLD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/thread_pool.h"
#include "weightlift/reader.h"

namespace weightlift {

// Threads that wait for a disk, where the caller did not choose.
inline constexpr int kDiskThreads = 4;

inline int DiskThreads(int chosen) {
  return chosen != 0 ? chosen : std::max(kDiskThreads, PoolThreads());
}

// Threads where any of the readers streams. What limits them is the reader, not
// the CPUs.
inline int StreamThreads(int chosen) { return chosen != 0 ? chosen : kMaxPoolThreads; }

inline bool AnyStreams(std::span<const std::shared_ptr<const Reader>> readers) {
  return std::any_of(readers.begin(), readers.end(),
                     [](const std::shared_ptr<const Reader>& r) { return r->Streams(); });
}

// Whether any of the range is known not to be cached.
inline bool IsCold(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes) {
  const auto* const file = dynamic_cast<const FileReader*>(&reader);
  if (file == nullptr) return false;
  const double cached = file->Residency(offset, nbytes);
  return cached >= 0 && cached < 1;
}

// Whether a direct read from `offset` into these buffers needs no bounce buffer: one block of
// memory, as far from a block's boundary as the offset is.
inline bool LandsWithoutBounce(std::span<const std::span<std::byte>> outs, std::uint64_t offset) {
  constexpr std::uint64_t kDiskBlock = 512;  // the least that devices have
  if (outs.size() != 1) return false;
  const auto address = reinterpret_cast<std::uintptr_t>(outs[0].data());
  return address % kDiskBlock == offset % kDiskBlock;
}

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_COLD_H_
