// SSE4.2's crc32 instruction, for crc_streams.h. Unnamed namespace: see small_float.h.
#ifndef WEIGHTLIFT_KERNELS_X86_SSE42_CRC_H_
#define WEIGHTLIFT_KERNELS_X86_SSE42_CRC_H_

#include <nmmintrin.h>

#include <cstdint>

#include "kernels/crc_math.h"

namespace weightlift::kernels {
namespace {

struct Sse42Crc32c {
  static constexpr std::uint32_t kPolynomial = kCrc32cPolynomial;
  static std::uint32_t Add8(std::uint32_t state, std::uint64_t word) {
    return static_cast<std::uint32_t>(_mm_crc32_u64(state, word));
  }
  static std::uint32_t Add1(std::uint32_t state, std::uint8_t byte) {
    return _mm_crc32_u8(state, byte);
  }
};

}  // namespace
}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_X86_SSE42_CRC_H_
