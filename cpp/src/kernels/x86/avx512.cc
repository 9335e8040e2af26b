// AVX-512 (F, BW, DQ, VL): the plain loops in vectors of 512 bits, and float16 by its instructions.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/install.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

constexpr std::size_t kLanes = 16;

void Float32ToHalf(const std::byte* src, std::byte* dst, std::size_t n) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m512 x = _mm512_loadu_ps(src + i * 4);
    Store(dst + i * 2, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  Each<std::uint16_t, std::uint32_t, EncodeSmall<Half, false>>(src + i * 4, dst + i * 2, n - i);
}

void HalfToFloat32(const std::byte* src, std::byte* dst, std::size_t n) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m512 x = _mm512_cvtph_ps(Load<__m256i>(src + i * 2));
    // The instruction makes signalling NaNs quiet; the loop keeps them.
    if (_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0) [[unlikely]] {
      Each<std::uint32_t, std::uint16_t, DecodeSmall<Half>>(src + i * 2, dst + i * 4, kLanes);
    } else {
      _mm512_storeu_ps(dst + i * 4, x);
    }
  }
  Each<std::uint32_t, std::uint16_t, DecodeSmall<Half>>(src + i * 2, dst + i * 4, n - i);
}

}  // namespace

void InstallAvx512(KernelTable& table) {
  InstallLoops(table);
  table.CastEntry(DType::kFloat32, DType::kFloat16, false) = Float32ToHalf;
  table.CastEntry(DType::kFloat16, DType::kFloat32, false) = HalfToFloat32;
  table.CastEntry(DType::kFloat16, DType::kFloat32, true) = HalfToFloat32;
}

}  // namespace weightlift::kernels
