// The one dispatch table: every kernel that has more than one implementation is a pointer in it.
//
// Each instruction set has one Install function that overwrites the entries it does better; a table
// is built by calling them from the plainest upwards. All pointers of a finished table are set, but
// for those that say what null means, and casts that go by way of float32 (see Pipeline::Append).
#ifndef WEIGHTLIFT_KERNELS_DISPATCH_H_
#define WEIGHTLIFT_KERNELS_DISPATCH_H_

#include <cstddef>
#include <cstdint>

#include "weightlift/convert.h"
#include "weightlift/dtype.h"

namespace weightlift::kernels {

// n elements from src to dst; no alignment is assumed.
using ConvertFn = void (*)(const std::byte* src, std::byte* dst, std::size_t n);
using ChecksumFn = std::uint32_t (*)(const std::byte* data, std::size_t n, std::uint32_t crc);

using CopyChecksumFn = std::uint32_t (*)(const std::byte* src, std::byte* dst, std::size_t n,
                                         std::uint32_t crc);

struct KernelTable {
  ChecksumFn crc32c = nullptr;
  ChecksumFn crc32 = nullptr;
  // Null: not offered.
  CopyChecksumFn copy_crc32c = nullptr;
  CopyChecksumFn copy_past_caches_crc32c = nullptr;

  MinMax (*min_max)(const std::byte* src, std::size_t n) = nullptr;  // n > 0 float32 values

  // One entry for words of 2, 4, 8 and 16 bytes; n counts words.
  ConvertFn byteswap[4] = {};

  // cast[from][to][saturate]. Null: not offered, or offered by way of float32.
  ConvertFn cast[kDTypeCount][kDTypeCount][2] = {};

  // To float32, rounded to odd: what is then rounded to a narrower float is rounded once. Set for
  // the types that float32 does not hold exactly.
  ConvertFn to_odd_float32[kDTypeCount] = {};

  // Indexed by whether the stored type is uint16.
  void (*affine_to_float32[2])(const AffineDecode& step, const std::byte* src, std::byte* dst,
                               std::size_t n) = {};
  void (*affine_to_int32[2])(const AffineDecode& step, const std::byte* src, std::byte* dst,
                             std::size_t n) = {};
  void (*affine_encode[2])(const AffineEncode& step, const std::byte* src, std::byte* dst,
                           std::size_t n) = {};

  ConvertFn& CastEntry(DType from, DType to, bool saturate) noexcept {
    return cast[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)][saturate ? 1 : 0];
  }
  ConvertFn CastEntry(DType from, DType to, bool saturate) const noexcept {
    return cast[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)][saturate ? 1 : 0];
  }
};

// The table in use. Throws Error(kInvalidArgument) as ActiveIsa does.
const KernelTable& Kernels();

// The portable table, whatever is in use: it has every cast that any table has.
const KernelTable& PortableKernels();

}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_DISPATCH_H_
