// Checksums of pieces, folded into the checksum of the whole.
#ifndef WEIGHTLIFT_PLAN_SUMS_H_
#define WEIGHTLIFT_PLAN_SUMS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "weightlift/error.h"
#include "weightlift/plan.h"

namespace weightlift {

// Read and hash in sub-blocks of this size, so that the bytes are still in the L2 cache.
inline constexpr std::uint64_t kSubBlock = 256u << 10;

inline std::uint32_t Extend(ChecksumKind kind, std::uint32_t crc, std::span<const std::byte> data) {
  switch (kind) {
    case ChecksumKind::kCrc32c:
      return Crc32c(data, crc);
    case ChecksumKind::kCrc32:
      return Crc32(data, crc);
    case ChecksumKind::kNone:
      break;
  }
  return 0;
}

// The same, and copies the bytes to `copy` (of the same size).
inline std::uint32_t CopyAndExtend(ChecksumKind kind, std::uint32_t crc,
                                   std::span<const std::byte> data, std::span<std::byte> copy) {
  if (kind == ChecksumKind::kCrc32c) return CopyCrc32c(data, copy, crc);
  if (!data.empty()) std::memcpy(copy.data(), data.data(), data.size());
  return Extend(kind, crc, copy);
}

// The checksum of what has `crc`, followed by `nbytes` bytes that have `next`.
inline std::uint32_t Append(ChecksumKind kind, std::uint32_t crc, std::uint32_t next,
                            std::uint64_t nbytes) {
  if (crc == 0) return next;  // nothing yet, or what has no influence on the rest
  return kind == ChecksumKind::kCrc32c  ? Crc32cCombine(crc, next, nbytes)
         : kind == ChecksumKind::kCrc32 ? Crc32Combine(crc, next, nbytes)
                                        : 0;
}

// Where the stored bytes of one tensor lie, for messages.
struct StoredRange {
  static constexpr std::size_t kNoOp = static_cast<std::size_t>(-1);
  std::size_t first_op = kNoOp;  // in plan order
  std::size_t last_op = 0;
  std::uint32_t source = 0;  // of the first op
  std::uint64_t begin = 0;   // of the ops that are in that source
  std::uint64_t end = 0;

  bool empty() const { return first_op == kNoOp; }  // the tensor has no ops
  void Add(std::size_t op, std::uint32_t op_source, std::uint64_t op_begin, std::uint64_t op_end);
};

// Error(kChecksum) that says what was expected and what was found. `tensor`: see ReadOp.
Error ChecksumMismatch(const ChecksumSpec& spec, std::uint32_t found, std::uint32_t tensor,
                       const StoredRange& range,
                       std::span<const std::shared_ptr<const Reader>> readers);

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_SUMS_H_
