// What the processor, and the operating system that saves its registers, can do.
#ifndef WEIGHTLIFT_BASE_CPU_H_
#define WEIGHTLIFT_BASE_CPU_H_

namespace weightlift {

struct CpuFeatures {
  // x86-64
  bool sse42 = false;
  bool pclmul = false;
  bool avx2 = false;     // with F16C, FMA and BMI2, and a system that saves the ymm registers
  bool avx512 = false;   // F, BW, DQ and VL, and a system that saves the zmm registers
  bool vpclmul = false;  // VPCLMULQDQ on zmm registers
  // AArch64 (where Advanced SIMD is always there)
  bool arm_crc32 = false;
};

// Asked once; constant afterwards.
const CpuFeatures& Cpu() noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_BASE_CPU_H_
