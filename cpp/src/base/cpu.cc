#include "base/cpu.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace weightlift {
namespace {

#if defined(__x86_64__)

// XCR0: which register states the operating system saves on a context switch.
std::uint64_t SavedStates() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr bool Bit(std::uint32_t word, unsigned index) { return ((word >> index) & 1U) != 0; }

CpuFeatures Detect() {
  CpuFeatures cpu;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return cpu;
  const std::uint32_t leaf1 = ecx;
  cpu.sse42 = Bit(leaf1, 20);
  cpu.pclmul = Bit(leaf1, 1) && cpu.sse42;
  const bool has_xsave = Bit(leaf1, 27) && Bit(leaf1, 28);  // OSXSAVE and AVX
  if (!has_xsave || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return cpu;

  constexpr std::uint64_t kYmm = 0x06;  // SSE and AVX state
  constexpr std::uint64_t kZmm = 0xE6;  // ... and opmask, upper halves of zmm0-15, zmm16-31
  const std::uint64_t saved = SavedStates();
  const bool fma_f16c = Bit(leaf1, 12) && Bit(leaf1, 29);
  const bool avx2_bmi2 = Bit(ebx, 5) && Bit(ebx, 8);
  cpu.avx2 = (saved & kYmm) == kYmm && fma_f16c && avx2_bmi2;
  const bool f_dq_bw_vl = Bit(ebx, 16) && Bit(ebx, 17) && Bit(ebx, 30) && Bit(ebx, 31);
  cpu.avx512 = cpu.avx2 && (saved & kZmm) == kZmm && f_dq_bw_vl;
  cpu.vpclmul = cpu.avx512 && cpu.pclmul && Bit(ecx, 10);
  return cpu;
}

#elif defined(__aarch64__) && defined(__linux__)

CpuFeatures Detect() {
  CpuFeatures cpu;
  cpu.arm_crc32 = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
  return cpu;
}

#elif defined(__aarch64__) && defined(__APPLE__)

CpuFeatures Detect() {
  CpuFeatures cpu;
  cpu.arm_crc32 = true;  // every Apple 64-bit processor that runs a current system has it
  return cpu;
}

#else

CpuFeatures Detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& Cpu() noexcept {
  static const CpuFeatures features = Detect();
  return features;
}

}  // namespace weightlift
