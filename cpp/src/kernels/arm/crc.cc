// The CRC instructions of AArch64, which know both polynomials: three streams hide their latency.
#include <arm_acle.h>

#include <cstddef>
#include <cstdint>

#include "kernels/crc_math.h"
#include "kernels/crc_streams.h"
#include "kernels/install.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

struct Castagnoli {
  static constexpr std::uint32_t kPolynomial = kCrc32cPolynomial;
  static std::uint32_t Add8(std::uint32_t state, std::uint64_t word) {
    return __crc32cd(state, word);
  }
  static std::uint32_t Add1(std::uint32_t state, std::uint8_t byte) {
    return __crc32cb(state, byte);
  }
};

struct Zip {
  static constexpr std::uint32_t kPolynomial = kCrc32Polynomial;
  static std::uint32_t Add8(std::uint32_t state, std::uint64_t word) {
    return __crc32d(state, word);
  }
  static std::uint32_t Add1(std::uint32_t state, std::uint8_t byte) {
    return __crc32b(state, byte);
  }
};

}  // namespace

void InstallArmCrc(KernelTable& table) {
  table.crc32c = CrcInThreeStreams<Castagnoli>;
  table.crc32 = CrcInThreeStreams<Zip>;
}

}  // namespace weightlift::kernels
