// Arithmetic of CRCs: polynomials over GF(2), modulo a CRC's polynomial P of degree 32.
//
// As in the CRCs themselves, bits are reflected: the most significant bit of a word is the
// coefficient of x^0, the least significant one that of x^31.
#ifndef WEIGHTLIFT_KERNELS_CRC_MATH_H_
#define WEIGHTLIFT_KERNELS_CRC_MATH_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace weightlift::kernels {

inline constexpr std::uint32_t kCrc32cPolynomial = 0x82F63B78;  // 0x1EDC6F41 reflected
inline constexpr std::uint32_t kCrc32Polynomial = 0xEDB88320;   // 0x04C11DB7 reflected

template <std::uint32_t kPolynomial>
struct CrcMath {
  static constexpr std::uint32_t TimesX(std::uint32_t a) noexcept {
    return (a >> 1) ^ ((a & 1) != 0 ? kPolynomial : 0);
  }

  // a * b mod P
  static constexpr std::uint32_t Multiply(std::uint32_t a, std::uint32_t b) noexcept {
    std::uint32_t product = 0;
    for (std::uint32_t bit = 0x80000000; bit != 0; bit >>= 1) {
      if ((a & bit) != 0) product ^= b;
      b = TimesX(b);
    }
    return product;
  }

  // x^(8 * 2^k) mod P for every k that a byte count can have
  static constexpr std::array<std::uint32_t, 64> kBytePowers = [] {
    std::array<std::uint32_t, 64> powers{};
    std::uint32_t power = 0x80000000 >> 8;  // x^8
    for (std::uint32_t& entry : powers) {
      entry = power;
      power = Multiply(power, power);
    }
    return powers;
  }();

  // x^(8 * n) mod P: what n zero bytes multiply a CRC by
  static constexpr std::uint32_t BytePower(std::uint64_t n) noexcept {
    std::uint32_t power = 0x80000000;  // x^0
    for (std::size_t k = 0; n != 0; ++k, n >>= 1) {
      if ((n & 1) != 0) power = Multiply(power, kBytePowers[k]);
    }
    return power;
  }

  // The constants that carry a 128-bit accumulator forward by `bytes` bytes with two carry-less
  // multiplications: for its low half (the earlier bytes) x^(8 bytes + 32), for its high half
  // x^(8 bytes - 32). The shift by one makes up for the 127-bit product of reflected operands.
  struct Fold {
    std::uint64_t low;
    std::uint64_t high;
  };
  static constexpr Fold FoldBy(std::uint64_t bytes) noexcept {
    return {static_cast<std::uint64_t>(BytePower(bytes + 4)) << 1,
            static_cast<std::uint64_t>(BytePower(bytes - 4)) << 1};
  }

  // kTables[k][b]: the CRC state of byte b followed by k zero bytes.
  static constexpr std::size_t kSlices = 16;
  static constexpr std::array<std::array<std::uint32_t, 256>, kSlices> MakeTables() noexcept {
    std::array<std::array<std::uint32_t, 256>, kSlices> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t state = byte;
      for (int i = 0; i < 8; ++i) state = TimesX(state);
      tables[0][byte] = state;
    }
    for (std::size_t k = 1; k < kSlices; ++k) {
      for (std::size_t byte = 0; byte < 256; ++byte) {
        const std::uint32_t previous = tables[k - 1][byte];
        tables[k][byte] = (previous >> 8) ^ tables[0][previous & 0xFF];
      }
    }
    return tables;
  }
};

// The CRC register after n bytes, by tables; the state is the finished value's complement.
// Defined in crc_portable.cc; the other instruction sets use it for what is left over.
std::uint32_t Crc32cState(const std::byte* data, std::size_t n, std::uint32_t state) noexcept;
std::uint32_t Crc32State(const std::byte* data, std::size_t n, std::uint32_t state) noexcept;

}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_CRC_MATH_H_
