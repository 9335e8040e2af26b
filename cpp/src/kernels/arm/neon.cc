// Advanced SIMD, which every AArch64 processor has: float16 by its conversion instructions. The
// other loops are vectorised for it in the portable table already.
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/install.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

// Eight at a time.
void Float32ToHalf(const std::byte* src, std::byte* dst, std::size_t n) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const float16x4_t low = vcvt_f16_f32(Load<float32x4_t>(src + i * 4));
    const float16x4_t high = vcvt_f16_f32(Load<float32x4_t>(src + i * 4 + 16));
    Store(dst + i * 2, vcombine_f16(low, high));
  }
  Each<std::uint16_t, std::uint32_t, EncodeSmall<Half, false>>(src + i * 4, dst + i * 2, n - i);
}

// The instruction makes signalling NaNs quiet; here they stay as they are.
float32x4_t Widen(uint16x4_t codes) {
  const uint32x4_t converted = vreinterpretq_u32_f32(vcvt_f32_f16(vreinterpret_f16_u16(codes)));
  const uint32x4_t wide = vmovl_u16(codes);
  const uint32x4_t magnitude = vandq_u32(wide, vdupq_n_u32(0x7FFF));
  const uint32x4_t is_nan = vcgtq_u32(magnitude, vdupq_n_u32(Half::kInfinity));
  const uint32x4_t quiet_bit = vshlq_n_u32(vandq_u32(wide, vdupq_n_u32(0x0200)), 13);
  const uint32x4_t payload = vorrq_u32(vbicq_u32(converted, vdupq_n_u32(0x00400000)), quiet_bit);
  return vreinterpretq_f32_u32(vbslq_u32(is_nan, payload, converted));
}

void HalfToFloat32(const std::byte* src, std::byte* dst, std::size_t n) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const uint16x8_t codes = Load<uint16x8_t>(src + i * 2);
    Store(dst + i * 4, Widen(vget_low_u16(codes)));
    Store(dst + i * 4 + 16, Widen(vget_high_u16(codes)));
  }
  Each<std::uint32_t, std::uint16_t, DecodeSmall<Half>>(src + i * 2, dst + i * 4, n - i);
}

}  // namespace

void InstallNeon(KernelTable& table) {
  table.CastEntry(DType::kFloat32, DType::kFloat16, false) = Float32ToHalf;
  for (const bool saturate : {false, true}) {
    table.CastEntry(DType::kFloat16, DType::kFloat32, saturate) = HalfToFloat32;
  }
}

}  // namespace weightlift::kernels
