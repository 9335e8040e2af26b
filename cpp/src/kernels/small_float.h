// The floats of 8 and 16 bits: their codes to and from float32, without branches, so that a loop
// over them vectorises.
//
// Everything sits in an unnamed namespace on purpose: the files of different instruction sets
// compile this header with different flags, and must not share one copy of a function through the
// linker.
#ifndef WEIGHTLIFT_KERNELS_SMALL_FLOAT_H_
#define WEIGHTLIFT_KERNELS_SMALL_FLOAT_H_

#include <cstdint>

namespace weightlift::kernels {
namespace {

template <class To, class From>
constexpr To BitCast(From from) noexcept {
  return __builtin_bit_cast(To, from);
}

inline constexpr std::uint32_t kFloat32Infinity = 0x7F800000;
inline constexpr std::uint32_t kQuietNan = 0x7FC00000;
inline constexpr int kFloat32Mantissa = 23;
inline constexpr int kFloat32Bias = 127;

// 2^exponent, for a normal float32
constexpr float PowerOfTwo(int exponent) noexcept {
  return BitCast<float>(static_cast<std::uint32_t>(exponent + kFloat32Bias) << kFloat32Mantissa);
}

// Rounds a float32 magnitude to its upper bits, ties to even, and drops the lower `kShift`.
template <int kShift>
constexpr std::uint32_t RoundToUpper(std::uint32_t magnitude) noexcept {
  constexpr std::uint32_t kAlmostHalf = (1U << (kShift - 1)) - 1;
  return (magnitude + kAlmostHalf + ((magnitude >> kShift) & 1)) >> kShift;
}

// What a format does with its codes of the largest exponent and with minus zero.
enum class Specials {
  kIeee,  // infinities and NaNs
  kFn,    // finite, but for one NaN a sign: all ones
  kFnuz,  // finite, but for one NaN in the place of minus zero
};

// A sign, `kExponentBits` and `kMantissaBits`, with subnormals. Every exponent of the format must
// be one of normal float32 numbers.
template <int kExponentBits, int kMantissaBits, int kBias, Specials kSpecials>
struct SmallFloat {
  static constexpr int kBits = 1 + kExponentBits + kMantissaBits;
  static constexpr std::uint32_t kSignBit = 1U << (kBits - 1);
  static constexpr std::uint32_t kAllOnes = kSignBit - 1;  // every exponent and mantissa bit
  static constexpr std::uint32_t kExponentMask = kAllOnes & ~((1U << kMantissaBits) - 1);

  static constexpr std::uint32_t kInfinity = kExponentMask;  // of kIeee only
  static constexpr std::uint32_t kNan = kSpecials == Specials::kIeee
                                            ? kExponentMask | (1U << (kMantissaBits - 1))
                                        : kSpecials == Specials::kFn ? kAllOnes
                                                                     : kSignBit;
  static constexpr std::uint32_t kMaxFinite = kSpecials == Specials::kIeee ? kExponentMask - 1
                                              : kSpecials == Specials::kFn ? kAllOnes - 1
                                                                           : kAllOnes;

  template <bool kSaturate>
  static constexpr std::uint32_t FromFloat32(std::uint32_t bits) noexcept {
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    std::uint32_t code = RoundToUpper<kFloat32Mantissa - kMantissaBits>(magnitude) -
                         (static_cast<std::uint32_t>(kFloat32Bias - kBias) << kMantissaBits);

    // Below the smallest normal number: adding an anchor whose last bit has the weight of the
    // format's last subnormal bit makes the addition do the rounding.
    constexpr std::uint32_t kSmallestNormal = static_cast<std::uint32_t>(kFloat32Bias - kBias + 1)
                                              << kFloat32Mantissa;
    constexpr float kAnchor = PowerOfTwo(kFloat32Mantissa + 1 - kBias - kMantissaBits);
    const std::uint32_t subnormal = BitCast<std::uint32_t>(BitCast<float>(magnitude) + kAnchor) -
                                    BitCast<std::uint32_t>(kAnchor);
    code = magnitude < kSmallestNormal ? subnormal : code;

    std::uint32_t beyond = kSpecials == Specials::kIeee ? kInfinity : kNan;
    if constexpr (kSaturate) {
      beyond = kMaxFinite;
      if constexpr (kSpecials == Specials::kIeee) {
        beyond = magnitude == kFloat32Infinity ? kInfinity : kMaxFinite;
      }
    }
    code = code > kMaxFinite ? beyond : code;
    code = magnitude > kFloat32Infinity ? NanCode(magnitude) : code;

    std::uint32_t sign = (bits >> 31) << (kBits - 1);
    if constexpr (kSpecials == Specials::kFnuz) sign = code == 0 ? 0 : sign;
    return code | sign;
  }

  static constexpr std::uint32_t ToFloat32(std::uint32_t code) noexcept {
    const std::uint32_t sign = (code & kSignBit) << (32 - kBits);
    const std::uint32_t magnitude = code & kAllOnes;
    constexpr int kShift = kFloat32Mantissa - kMantissaBits;
    constexpr std::uint32_t kRebias = static_cast<std::uint32_t>(kFloat32Bias - kBias)
                                      << kFloat32Mantissa;
    const std::uint32_t shifted = magnitude << kShift;
    // A subnormal: give it the smallest normal exponent, then subtract the one that this added.
    constexpr std::uint32_t kSmallestNormal = kRebias + (1U << kFloat32Mantissa);
    const std::uint32_t subnormal = BitCast<std::uint32_t>(
        BitCast<float>(shifted + kSmallestNormal) - BitCast<float>(kSmallestNormal));
    std::uint32_t bits = magnitude < (1U << kMantissaBits) ? subnormal : shifted + kRebias;
    if constexpr (kSpecials == Specials::kIeee) {
      bits = magnitude >= kInfinity ? kFloat32Infinity : bits;
      if constexpr (kBits == 16) {
        bits |= magnitude > kInfinity ? shifted : 0;  // a NaN keeps its payload, quiet or not
      } else {
        bits = magnitude > kInfinity ? kQuietNan : bits;
      }
    } else if constexpr (kSpecials == Specials::kFn) {
      bits = magnitude == kAllOnes ? kQuietNan : bits;
    } else {
      bits = code == kSignBit ? kQuietNan : bits;
    }
    return bits | sign;
  }

 private:
  static constexpr std::uint32_t NanCode(std::uint32_t magnitude) noexcept {
    if constexpr (kBits == 16) {  // keeps what fits of the payload, as processors do
      return kNan | ((magnitude >> (kFloat32Mantissa - kMantissaBits)) & kAllOnes);
    }
    return kNan;
  }
};

using Half = SmallFloat<5, 10, 15, Specials::kIeee>;
using Float8E5M2 = SmallFloat<5, 2, 15, Specials::kIeee>;
using Float8E4M3FN = SmallFloat<4, 3, 7, Specials::kFn>;
using Float8E4M3FNUZ = SmallFloat<4, 3, 8, Specials::kFnuz>;
using Float8E5M2FNUZ = SmallFloat<5, 2, 16, Specials::kFnuz>;

// The upper half of a float32.
struct BFloat16 {
  static constexpr int kBits = 16;

  template <bool kSaturate>
  static constexpr std::uint32_t FromFloat32(std::uint32_t bits) noexcept {
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    std::uint32_t code = RoundToUpper<16>(magnitude);
    if constexpr (kSaturate) code = code > 0x7F7F && magnitude < kFloat32Infinity ? 0x7F7F : code;
    code = magnitude > kFloat32Infinity ? 0x7FC0 : code;
    return code | ((bits >> 16) & 0x8000);
  }

  static constexpr std::uint32_t ToFloat32(std::uint32_t code) noexcept { return code << 16; }
};

// A power of two: exponents only, from 2^-127 (code 0) to 2^127, and one NaN (0xFF). It has no zero
// and no sign; ties go up, as in ml_dtypes.
struct Float8E8M0FNU {
  static constexpr int kBits = 8;

  template <bool kSaturate>
  static constexpr std::uint32_t FromFloat32(std::uint32_t bits) noexcept {
    std::uint32_t code = (bits + 0x400000) >> kFloat32Mantissa;
    // 2^-127 is a subnormal float32: what is halfway to 2^-126 or more rounds up.
    code = bits < 0x00800000 ? (bits >= 0x00600000 ? 1 : 0) : code;
    if constexpr (kSaturate) code = code > 0xFE ? 0xFE : code;
    // NaN, zero, minus zero and everything negative
    return bits > kFloat32Infinity || bits == 0 ? 0xFF : (code > 0xFF ? 0xFF : code);
  }

  static constexpr std::uint32_t ToFloat32(std::uint32_t code) noexcept {
    const std::uint32_t bits = code == 0 ? 0x00400000 : code << kFloat32Mantissa;
    return code == 0xFF ? kQuietNan : bits;
  }
};

}  // namespace
}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_SMALL_FLOAT_H_
