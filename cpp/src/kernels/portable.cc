// The table that every processor can run, and the only one with all entries: the other instruction
// sets start from it.
#include <cmath>
#include <cstring>
#include <limits>

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

void InstallIntegers(KernelTable& table) {
  InstallIntegersFrom<Bool>(table, DType::kBool);
  InstallIntegersFrom<std::int8_t>(table, DType::kInt8);
  InstallIntegersFrom<std::int16_t>(table, DType::kInt16);
  InstallIntegersFrom<std::int32_t>(table, DType::kInt32);
  InstallIntegersFrom<std::int64_t>(table, DType::kInt64);
  InstallIntegersFrom<std::uint8_t>(table, DType::kUInt8);
  InstallIntegersFrom<std::uint16_t>(table, DType::kUInt16);
  InstallIntegersFrom<std::uint32_t>(table, DType::kUInt32);
  InstallIntegersFrom<std::uint64_t>(table, DType::kUInt64);
}

// ECMAScript's Math.round, then its ToInt32 (modulo 2^32; NaN and infinities give 0).
std::int32_t RoundToInt32(double value) {
  double rounded = std::floor(value);
  if (value - rounded >= 0.5) rounded += 1;
  if (!std::isfinite(rounded)) return 0;
  const double wrapped = std::fmod(rounded, 0x1p32);  // exact, with the sign of `rounded`
  const auto magnitude = static_cast<std::uint64_t>(std::fabs(wrapped));
  const std::uint64_t word = wrapped < 0 ? 0 - magnitude : magnitude;
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(word));
}

template <class Stored>
void AffineToInt32(const AffineDecode& step, const std::byte* src, std::byte* dst, std::size_t n) {
  // The values lie between those of the first and the last level; a NaN is not inside either.
  const double first = step.min;
  const double last = std::numeric_limits<Stored>::max() * step.scale + step.min;
  constexpr double kInside = 0x1p31 - 2;
  if (std::fabs(first) < kInside && std::fabs(last) < kInside) {
    AffineToInt32InRange<Stored>(step, src, dst, n);
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const auto value = static_cast<double>(Load<Stored>(src + i * sizeof(Stored)));
    Store(dst + i * 4, RoundToInt32(value * step.scale + step.min));
  }
}

}  // namespace

void InstallPortable(KernelTable& table) {
  InstallIntegers(table);
  InstallLoops(table);
  InstallCopies(table);
  table.affine_to_int32[0] = AffineToInt32<std::uint8_t>;
  table.affine_to_int32[1] = AffineToInt32<std::uint16_t>;
}

}  // namespace weightlift::kernels
