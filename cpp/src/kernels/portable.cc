// The table that every processor can run, and the only one with all entries: the other instruction
// sets start from it.
#include <cmath>
#include <cstring>

#include "kernels/install.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

template <std::size_t kItem>
void Copy(const std::byte* src, std::byte* dst, std::size_t n) {
  std::memcpy(dst, src, n * kItem);
}

void InstallCopies(KernelTable& table) {
  for (const DTypeInfo& info : AllDTypes()) {
    ConvertFn copy = nullptr;
    if (info.bits == 8) copy = Copy<1>;
    if (info.bits == 16) copy = Copy<2>;
    if (info.bits == 32) copy = Copy<4>;
    if (info.bits == 64) copy = Copy<8>;
    if (info.bits == 128) copy = Copy<16>;
    table.CastEntry(info.dtype, info.dtype, false) = copy;
    table.CastEntry(info.dtype, info.dtype, true) = copy;
  }
}

template <class From>
void InstallNativeFrom(KernelTable& table, DType from) {
  InstallNative<From, Bool>(table, from, DType::kBool);
  InstallNative<From, std::int8_t>(table, from, DType::kInt8);
  InstallNative<From, std::int16_t>(table, from, DType::kInt16);
  InstallNative<From, std::int32_t>(table, from, DType::kInt32);
  InstallNative<From, std::int64_t>(table, from, DType::kInt64);
  InstallNative<From, std::uint8_t>(table, from, DType::kUInt8);
  InstallNative<From, std::uint16_t>(table, from, DType::kUInt16);
  InstallNative<From, std::uint32_t>(table, from, DType::kUInt32);
  InstallNative<From, std::uint64_t>(table, from, DType::kUInt64);
  InstallNative<From, float>(table, from, DType::kFloat32);
  InstallNative<From, double>(table, from, DType::kFloat64);
}

void InstallNatives(KernelTable& table) {
  InstallNativeFrom<Bool>(table, DType::kBool);
  InstallNativeFrom<std::int8_t>(table, DType::kInt8);
  InstallNativeFrom<std::int16_t>(table, DType::kInt16);
  InstallNativeFrom<std::int32_t>(table, DType::kInt32);
  InstallNativeFrom<std::int64_t>(table, DType::kInt64);
  InstallNativeFrom<std::uint8_t>(table, DType::kUInt8);
  InstallNativeFrom<std::uint16_t>(table, DType::kUInt16);
  InstallNativeFrom<std::uint32_t>(table, DType::kUInt32);
  InstallNativeFrom<std::uint64_t>(table, DType::kUInt64);
  InstallNativeFrom<float>(table, DType::kFloat32);
  InstallNativeFrom<double>(table, DType::kFloat64);
}

// ECMAScript's Math.round (half toward plus infinity), then its ToInt32 (modulo 2^32).
std::int32_t RoundToInt32(double value) {
  double rounded = std::floor(value);
  if (value - rounded >= 0.5) rounded += 1;
  if (!std::isfinite(rounded)) return 0;
  if (std::fabs(rounded) < 0x1p31) return static_cast<std::int32_t>(rounded);
  const double wrapped = std::fmod(rounded, 0x1p32);  // exact, with the sign of `rounded`
  const auto magnitude = static_cast<std::uint64_t>(std::fabs(wrapped));
  const std::uint64_t word = wrapped < 0 ? 0 - magnitude : magnitude;
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
}

template <class Stored>
void AffineToInt32(const AffineDecode& step, const std::byte* src, std::byte* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<Stored>(src + i * sizeof(Stored)));
    Store(dst + i * 4, RoundToInt32(value * step.scale + step.min));
  }
}

}  // namespace

void InstallPortable(KernelTable& table) {
  InstallNatives(table);
  InstallSmallFloats(table);
  InstallOdd(table);
  InstallCopies(table);
  InstallByteswap(table);
  InstallAffine(table);
  table.affine_to_int32[0] = AffineToInt32<std::uint8_t>;
  table.affine_to_int32[1] = AffineToInt32<std::uint16_t>;
  table.min_max = MinMaxByKeys;
}

}  // namespace weightlift::kernels
