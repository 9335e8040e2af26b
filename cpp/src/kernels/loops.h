// Element loops that compilers vectorise well, for the portable table and, compiled with more
// flags, for the others. Unnamed namespace: see small_float.h.
#ifndef WEIGHTLIFT_KERNELS_LOOPS_H_
#define WEIGHTLIFT_KERNELS_LOOPS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/install.h"
#include "kernels/small_float.h"

namespace weightlift::kernels {
namespace {

enum class Bool : std::uint8_t {};  // one byte, true unless zero

template <class T>
inline T Load(const std::byte* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <class T>
inline void Store(std::byte* p, T value) noexcept {
  std::memcpy(p, &value, sizeof value);
}

template <class To, class From, To (*kConvert)(From)>
void Each(const std::byte* __restrict src, std::byte* __restrict dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    Store<To>(dst + i * sizeof(To), kConvert(Load<From>(src + i * sizeof(From))));
  }
}

// --- between bool, the integers, float32 and float64 ---------------------------------------------

template <class To, class From>
inline To SaturateInteger(From value) noexcept {
  using ToLimits = std::numeric_limits<To>;
  using FromLimits = std::numeric_limits<From>;
  if constexpr (ToLimits::digits < FromLimits::digits) {
    constexpr From kHigh = static_cast<From>(ToLimits::max());
    value = value > kHigh ? kHigh : value;
  }
  if constexpr (FromLimits::is_signed && (!ToLimits::is_signed || sizeof(To) < sizeof(From))) {
    constexpr From kLow = static_cast<From>(ToLimits::min());
    value = value < kLow ? kLow : value;
  }
  return static_cast<To>(value);
}

// Truncates toward zero, saturates; NaN gives 0.
template <class To, class From>
inline To FloatToInteger(From value) noexcept {
  using Limits = std::numeric_limits<To>;
  constexpr auto kLow = static_cast<From>(Limits::min());
  if constexpr (Limits::digits < std::numeric_limits<From>::digits) {
    constexpr auto kHigh = static_cast<From>(Limits::max());  // exact
    const From number = value == value ? value : 0;
    const From at_most = number < kHigh ? number : kHigh;
    const From inside = at_most > kLow ? at_most : kLow;
    // By way of int32 where that holds them all, for which processors have vector instructions.
    using Wide = std::conditional_t<(sizeof(To) < 4), std::int32_t, To>;
    return static_cast<To>(static_cast<Wide>(inside));
  } else {
    // The largest integer is not a float, but the power of two above it is.
    constexpr From kAbove = static_cast<From>(1ULL << (Limits::digits - 1)) * 2;
    const bool fits = value > kLow && value < kAbove;
    const To inside = static_cast<To>(fits ? value : 0);
    const To outside = value >= kAbove ? Limits::max() : (value <= kLow ? Limits::min() : To{0});
    return fits ? inside : outside;
  }
}

template <bool kSaturate>
inline float NarrowToFloat32(double value) noexcept {
  const auto narrow = static_cast<float>(value);
  if constexpr (kSaturate) {
    constexpr float kMax = std::numeric_limits<float>::max();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (value > static_cast<double>(kMax) && value < kInfinity) return kMax;
    if (value < -static_cast<double>(kMax) && value > -kInfinity) return -kMax;
  }
  return narrow;
}

template <class To, class From, bool kSaturate>
inline To ConvertNative(From value) noexcept {
  if constexpr (std::is_same_v<To, Bool>) {
    return static_cast<Bool>(value != From{} ? 1 : 0);
  } else if constexpr (std::is_same_v<From, Bool>) {
    return static_cast<To>(value != Bool{} ? 1 : 0);
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    return FloatToInteger<To>(value);
  } else if constexpr (std::is_integral_v<To> && kSaturate) {
    return SaturateInteger<To>(value);
  } else if constexpr (std::is_same_v<To, float> && std::is_same_v<From, double>) {
    return NarrowToFloat32<kSaturate>(value);
  } else {
    return static_cast<To>(value);
  }
}

// --- to float32, rounded to odd ------------------------------------------------------------------
// Truncated, with the last bit set where anything was lost: rounding that to a mantissa shorter by
// two bits or more gives what rounding the first value would have given.

inline std::uint64_t SignBit(double value) noexcept {
  return BitCast<std::uint64_t>(value) & (std::uint64_t{1} << 63);
}

// Of value + rest, where rest is no more than half a unit in the last place of value.
inline float OddFromSum(double value, double rest) noexcept {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  const double difference = value - back;  // exact; NaN for NaN and infinities
  const double lost = difference == 0 ? rest : difference;
  const double outward = BitCast<double>(BitCast<std::uint64_t>(lost) ^ SignBit(back));
  // Rounded away from zero: one step back. Either way something was lost: the last bit is set.
  auto bits = BitCast<std::uint32_t>(nearest);
  bits = outward < 0 ? (bits - 1) | 1 : bits;
  bits = outward > 0 ? bits | 1 : bits;
  return BitCast<float>(bits);
}

inline float OddFromDouble(double value) noexcept { return OddFromSum(value, 0); }

template <class Integer>
inline float OddFromInteger(Integer value) noexcept {
  if constexpr (sizeof(Integer) <= 4) {
    return OddFromDouble(static_cast<double>(value));
  } else {
    // The halves are exact in float64, and so is what their sum loses.
    using High = std::conditional_t<std::is_signed_v<Integer>, std::int32_t, std::uint32_t>;
    const double high = static_cast<double>(static_cast<High>(value >> 32)) * 0x1p32;
    const auto low = static_cast<double>(static_cast<std::uint32_t>(value));
    const double sum = high + low;
    return OddFromSum(sum, low - (sum - high));
  }
}

// --- the small floats ----------------------------------------------------------------------------

template <class Format>
using CodeOf = std::conditional_t<Format::kBits == 16, std::uint16_t, std::uint8_t>;

template <class Format, bool kSaturate>
inline CodeOf<Format> EncodeSmall(std::uint32_t float32_bits) noexcept {
  return static_cast<CodeOf<Format>>(Format::template FromFloat32<kSaturate>(float32_bits));
}

template <class Format>
inline std::uint32_t DecodeSmall(CodeOf<Format> code) noexcept {
  return Format::ToFloat32(code);
}

template <class Format>
void InstallSmall(KernelTable& table, DType dtype) {
  using Code = CodeOf<Format>;
  table.CastEntry(DType::kFloat32, dtype, false) =
      Each<Code, std::uint32_t, EncodeSmall<Format, false>>;
  table.CastEntry(DType::kFloat32, dtype, true) =
      Each<Code, std::uint32_t, EncodeSmall<Format, true>>;
  table.CastEntry(dtype, DType::kFloat32, false) = Each<std::uint32_t, Code, DecodeSmall<Format>>;
  table.CastEntry(dtype, DType::kFloat32, true) = table.CastEntry(dtype, DType::kFloat32, false);
}

inline void InstallSmallFloats(KernelTable& table) {
  InstallSmall<Half>(table, DType::kFloat16);
  InstallSmall<BFloat16>(table, DType::kBFloat16);
  InstallSmall<Float8E4M3FN>(table, DType::kFloat8E4M3FN);
  InstallSmall<Float8E4M3FNUZ>(table, DType::kFloat8E4M3FNUZ);
  InstallSmall<Float8E5M2>(table, DType::kFloat8E5M2);
  InstallSmall<Float8E5M2FNUZ>(table, DType::kFloat8E5M2FNUZ);
  InstallSmall<Float8E8M0FNU>(table, DType::kFloat8E8M0FNU);
}

template <class From, class To>
void InstallNative(KernelTable& table, DType from, DType to) {
  constexpr bool kSaturates = (std::is_integral_v<From> && std::is_integral_v<To>) ||
                              (std::is_same_v<From, double> && std::is_same_v<To, float>);
  table.CastEntry(from, to, false) = Each<To, From, ConvertNative<To, From, false>>;
  table.CastEntry(from, to, true) = Each<To, From, ConvertNative<To, From, kSaturates>>;
}

template <class From>
void InstallIntegersFrom(KernelTable& table, DType from) {
  InstallNative<From, Bool>(table, from, DType::kBool);
  InstallNative<From, std::int8_t>(table, from, DType::kInt8);
  InstallNative<From, std::int16_t>(table, from, DType::kInt16);
  InstallNative<From, std::int32_t>(table, from, DType::kInt32);
  InstallNative<From, std::int64_t>(table, from, DType::kInt64);
  InstallNative<From, std::uint8_t>(table, from, DType::kUInt8);
  InstallNative<From, std::uint16_t>(table, from, DType::kUInt16);
  InstallNative<From, std::uint32_t>(table, from, DType::kUInt32);
  InstallNative<From, std::uint64_t>(table, from, DType::kUInt64);
}

template <class To>
void InstallIntegersTo(KernelTable& table, DType to) {
  InstallNative<Bool, To>(table, DType::kBool, to);
  InstallNative<std::int8_t, To>(table, DType::kInt8, to);
  InstallNative<std::int16_t, To>(table, DType::kInt16, to);
  InstallNative<std::int32_t, To>(table, DType::kInt32, to);
  InstallNative<std::int64_t, To>(table, DType::kInt64, to);
  InstallNative<std::uint8_t, To>(table, DType::kUInt8, to);
  InstallNative<std::uint16_t, To>(table, DType::kUInt16, to);
  InstallNative<std::uint32_t, To>(table, DType::kUInt32, to);
  InstallNative<std::uint64_t, To>(table, DType::kUInt64, to);
}

// All casts between float32 or float64 and the other native types.
inline void InstallNativeFloats(KernelTable& table) {
  InstallIntegersFrom<float>(table, DType::kFloat32);
  InstallIntegersFrom<double>(table, DType::kFloat64);
  InstallIntegersTo<float>(table, DType::kFloat32);
  InstallIntegersTo<double>(table, DType::kFloat64);
  InstallNative<float, double>(table, DType::kFloat32, DType::kFloat64);
  InstallNative<double, float>(table, DType::kFloat64, DType::kFloat32);
}

inline void InstallOdd(KernelTable& table) {
  const auto set = [&table](DType from, ConvertFn convert) {
    table.to_odd_float32[static_cast<std::size_t>(from)] = convert;
  };
  set(DType::kFloat64, Each<float, double, OddFromDouble>);
  set(DType::kInt32, Each<float, std::int32_t, OddFromInteger<std::int32_t>>);
  set(DType::kUInt32, Each<float, std::uint32_t, OddFromInteger<std::uint32_t>>);
  set(DType::kInt64, Each<float, std::int64_t, OddFromInteger<std::int64_t>>);
  set(DType::kUInt64, Each<float, std::uint64_t, OddFromInteger<std::uint64_t>>);
}

// --- byte order ----------------------------------------------------------------------------------

inline std::uint16_t Swap(std::uint16_t word) noexcept { return __builtin_bswap16(word); }
inline std::uint32_t Swap(std::uint32_t word) noexcept { return __builtin_bswap32(word); }
inline std::uint64_t Swap(std::uint64_t word) noexcept { return __builtin_bswap64(word); }

inline void Swap16Bytes(const std::byte* __restrict src, std::byte* __restrict dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto low = Load<std::uint64_t>(src + i * 16);
    const auto high = Load<std::uint64_t>(src + i * 16 + 8);
    Store(dst + i * 16, Swap(high));
    Store(dst + i * 16 + 8, Swap(low));
  }
}

inline void InstallByteswap(KernelTable& table) {
  table.byteswap[0] = Each<std::uint16_t, std::uint16_t, Swap>;
  table.byteswap[1] = Each<std::uint32_t, std::uint32_t, Swap>;
  table.byteswap[2] = Each<std::uint64_t, std::uint64_t, Swap>;
  table.byteswap[3] = Swap16Bytes;
}

// --- affine quantisation -------------------------------------------------------------------------
// In float64, one operation at a time: the build forbids contracting them into fused ones.

template <class Stored>
void AffineToFloat32(const AffineDecode& step, const std::byte* __restrict src,
                     std::byte* __restrict dst, std::size_t n) {
  const double scale = step.scale;
  const double min = step.min;
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<Stored>(src + i * sizeof(Stored)));
    Store(dst + i * 4, static_cast<float>(value * scale + min));
  }
}

// AffineEncode as the loops want it. `top` is the level of the largest value, not rounded: division
// does not change order, so clipping levels to [0, top] is the same as clipping values to [min,
// max].
struct Levels {
  double min;
  double scale;
  double reciprocal;
  double top;
};

template <class Stored>
Levels LevelsOf(const AffineEncode& step) noexcept {
  constexpr double kLevels = std::numeric_limits<Stored>::max();
  const double top = (step.max - step.min) / step.scale;
  return {step.min, step.scale, 1 / step.scale, top < kLevels ? top : kLevels};
}

// Rounded to a whole number, ties to even; NaN becomes 0.
struct Level {
  double exact;
  double rounded;
};
inline Level RoundLevel(double level, double top) noexcept {
  constexpr double kUnits = 0x1p52;  // from here on a double has no fraction: adding it rounds
  level = level > 0 ? level : 0;
  level = level < top ? level : top;
  return {level, (level + kUnits) - kUnits};
}

template <class Stored>
void AffineByDivision(const Levels& levels, const std::byte* __restrict src,
                      std::byte* __restrict dst, std::size_t n) {
  const auto [min, scale, reciprocal, top] = levels;
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<float>(src + i * 4));
    const Level level = RoundLevel((value - min) / scale, top);
    Store(dst + i * sizeof(Stored), static_cast<Stored>(static_cast<std::int32_t>(level.rounded)));
  }
}

// Multiplies by the reciprocal of the scale, which is faster, where that cannot change the result.
//
// The product differs from the quotient by less than 2^-35 wherever that is at most 2^16: by two
// roundings of the one and one of the other, each of a factor of 2^-53. So where the product is
// further than 2^-20 from halfway between two levels, both round to the same one. False: some
// product was not, and the elements must be divided.
template <class Stored>
bool AffineByReciprocal(const Levels& levels, const std::byte* __restrict src,
                        std::byte* __restrict dst, std::size_t n) {
  constexpr double kClear = 0.5 - 0x1p-20;
  const auto [min, scale, reciprocal, top] = levels;
  std::uint64_t signs = 0;  // its sign bit: some element is too close to halfway
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<float>(src + i * 4));
    const Level level = RoundLevel((value - min) * reciprocal, top);
    signs |= BitCast<std::uint64_t>(kClear - __builtin_fabs(level.exact - level.rounded));
    Store(dst + i * sizeof(Stored), static_cast<Stored>(static_cast<std::int32_t>(level.rounded)));
  }
  return (signs >> 63) == 0;
}

// The same once more in float32, twice as many at a time, for uint8 and a range that zero is in.
//
// Of a value whose level is in [0, 255], with -255 <= min / scale <= 0, the product with the
// reciprocal is at most 255 in size. It is off by 2^-16 for the reciprocal's rounding and 2^-17 for
// its own; the offset that is added is off by 2^-17, and so is the sum: 2^-14.6 in all. So where
// the sum is further than 2^-14 from halfway between two levels, it rounds as the quotient does.
// What lies outside of the range is clipped by both.
inline bool AffineInFloat32(const Levels& levels, const std::byte* __restrict src,
                            std::byte* __restrict dst, std::size_t n) {
  constexpr float kClear = 0.5F - 0x1p-14F;
  constexpr float kUnits = 0x1p23F;  // as in RoundLevel; the sum's low bits are the level
  const auto reciprocal = static_cast<float>(levels.reciprocal);
  const auto offset = static_cast<float>(-levels.min / levels.scale);
  const auto top = static_cast<float>(levels.top);
  std::uint32_t signs = 0;  // as in AffineByReciprocal
  for (std::size_t i = 0; i < n; ++i) {
    float level = Load<float>(src + i * 4) * reciprocal + offset;
    level = level > 0 ? level : 0;
    level = level < top ? level : top;
    const float shifted = level + kUnits;
    signs |= BitCast<std::uint32_t>(kClear - __builtin_fabsf(level - (shifted - kUnits)));
    Store(dst + i, static_cast<std::uint8_t>(BitCast<std::uint32_t>(shifted)));
  }
  return (signs >> 31) == 0;
}

// Processors fetch ahead within a page of 4 KiB only; long runs over memory gain a fifth by asking
// a page ahead. Never beyond the end, of which nothing is known.
constexpr std::size_t kFetchAhead = 4096;
constexpr std::size_t kCacheLine = 64;

inline void FetchAhead(const std::byte* block, std::size_t nbytes, const std::byte* end) noexcept {
  if (static_cast<std::size_t>(end - block) < nbytes + kFetchAhead) return;
  for (std::size_t i = 0; i < nbytes; i += kCacheLine) __builtin_prefetch(block + kFetchAhead + i);
}

template <class Stored>
void AffineFromFloat32(const AffineEncode& step, const std::byte* src, std::byte* dst,
                       std::size_t n) {
  constexpr bool kIsByte = sizeof(Stored) == 1;
  constexpr std::size_t kBlock = kIsByte ? 128 : 512;  // little to do again, enough to unroll
  const Levels levels = LevelsOf<Stored>(step);
  // Outside of these bounds the reciprocal would not have all its bits.
  const bool has_reciprocal = step.scale > 0x1p-1000 && step.scale < 0x1p1000;
  const bool in_float32 = kIsByte && step.scale > 0x1p-100 && step.scale < 0x1p100 &&
                          step.min <= 0 && -step.min / step.scale <= 255;
  const std::byte* const end = src + n * sizeof(float);
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = n - begin < kBlock ? n - begin : kBlock;
    const std::byte* const from = src + begin * sizeof(float);
    std::byte* const to = dst + begin * sizeof(Stored);
    FetchAhead(from, count * sizeof(float), end);
    if constexpr (kIsByte) {
      if (in_float32 && AffineInFloat32(levels, from, to, count)) continue;
    }
    if (!has_reciprocal || !AffineByReciprocal<Stored>(levels, from, to, count)) {
      AffineByDivision<Stored>(levels, from, to, count);
    }
  }
}

// ECMAScript's Math.round (half toward plus infinity) of what is well inside int32.
inline std::int32_t RoundHalfUp(double value) noexcept {
  const auto truncated = static_cast<std::int32_t>(value);
  const auto whole = static_cast<double>(truncated);
  const double above_floor = whole > value ? value - (whole - 1) : value - whole;
  const std::int32_t floor = whole > value ? truncated - 1 : truncated;
  return above_floor >= 0.5 ? floor + 1 : floor;
}

// Every value must be well inside int32: see portable.cc.
template <class Stored>
void AffineToInt32InRange(const AffineDecode& step, const std::byte* __restrict src,
                          std::byte* __restrict dst, std::size_t n) {
  const double scale = step.scale;
  const double min = step.min;
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<Stored>(src + i * sizeof(Stored)));
    Store(dst + i * 4, RoundHalfUp(value * scale + min));
  }
}

inline void InstallAffine(KernelTable& table) {
  table.affine_to_float32[0] = AffineToFloat32<std::uint8_t>;
  table.affine_to_float32[1] = AffineToFloat32<std::uint16_t>;
  table.affine_encode[0] = AffineFromFloat32<std::uint8_t>;
  table.affine_encode[1] = AffineFromFloat32<std::uint16_t>;
}

// --- smallest and largest ------------------------------------------------------------------------

// Float32 bits to integers in the same order (-0 before +0); the mapping is its own inverse. Every
// NaN lands beyond an infinity.
inline std::int32_t OrderedKey(std::int32_t bits) noexcept {
  return bits ^ static_cast<std::int32_t>(static_cast<std::uint32_t>(bits >> 31) >> 1);
}

inline MinMax MinMaxByKeys(const std::byte* src, std::size_t n) {
  std::int32_t low = std::numeric_limits<std::int32_t>::max();
  std::int32_t high = std::numeric_limits<std::int32_t>::min();
  constexpr std::size_t kBlock = 1024;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = n - begin < kBlock ? n - begin : kBlock;
    const std::byte* const from = src + begin * 4;
    FetchAhead(from, count * 4, src + n * 4);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t key = OrderedKey(Load<std::int32_t>(from + i * 4));
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
  }
  constexpr auto kInfinity = static_cast<std::int32_t>(kFloat32Infinity);
  if (low < ~kInfinity || high > kInfinity) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    return {kNan, kNan};
  }
  return {BitCast<float>(OrderedKey(low)), BitCast<float>(OrderedKey(high))};
}

// Everything here that is worth compiling once for each instruction set.
inline void InstallLoops(KernelTable& table) {
  InstallNativeFloats(table);
  InstallSmallFloats(table);
  InstallOdd(table);
  InstallByteswap(table);
  InstallAffine(table);
  table.min_max = MinMaxByKeys;
}

}  // namespace
}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_LOOPS_H_
