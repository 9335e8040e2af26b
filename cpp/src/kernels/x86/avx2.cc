// AVX2, with F16C for float16; the plain loops in vectors of 256 bits.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/install.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

// Finite numbers no larger than the largest float16; infinities and NaNs as they are.
__m256 ClampToHalf(__m256 x) {
  const __m256 limit = _mm256_set1_ps(65504.0F);
  const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0F));
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
  const __m256 clamped = _mm256_min_ps(limit, magnitude);  // of a NaN: the NaN
  const __m256 infinity = _mm256_castsi256_ps(_mm256_set1_epi32(kFloat32Infinity));
  const __m256 is_infinite = _mm256_cmp_ps(magnitude, infinity, _CMP_EQ_OQ);
  return _mm256_or_ps(_mm256_blendv_ps(clamped, magnitude, is_infinite), sign);
}

template <bool kSaturate>
void Float32ToHalf(const std::byte* src, std::byte* dst, std::size_t n) {
  constexpr std::size_t kLanes = 8;
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    __m256 x = Load<__m256>(src + i * 4);
    if constexpr (kSaturate) x = ClampToHalf(x);
    Store(dst + i * 2, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  Each<std::uint16_t, std::uint32_t, EncodeSmall<Half, kSaturate>>(src + i * 4, dst + i * 2, n - i);
}

void HalfToFloat32(const std::byte* src, std::byte* dst, std::size_t n) {
  constexpr std::size_t kLanes = 8;
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 x = _mm256_cvtph_ps(Load<__m128i>(src + i * 2));
    // The instruction makes signalling NaNs quiet; the loop keeps them.
    if (_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)) != 0) [[unlikely]] {
      Each<std::uint32_t, std::uint16_t, DecodeSmall<Half>>(src + i * 2, dst + i * 4, kLanes);
    } else {
      Store(dst + i * 4, x);
    }
  }
  Each<std::uint32_t, std::uint16_t, DecodeSmall<Half>>(src + i * 2, dst + i * 4, n - i);
}

}  // namespace

void InstallAvx2(KernelTable& table) {
  InstallLoops(table);
  table.CastEntry(DType::kFloat32, DType::kFloat16, false) = Float32ToHalf<false>;
  table.CastEntry(DType::kFloat32, DType::kFloat16, true) = Float32ToHalf<true>;
  table.CastEntry(DType::kFloat16, DType::kFloat32, false) = HalfToFloat32;
  table.CastEntry(DType::kFloat16, DType::kFloat32, true) = HalfToFloat32;
}

}  // namespace weightlift::kernels
