#include "weightlift/dtype.h"

#include <array>
#include <limits>

namespace weightlift {
namespace {

constexpr std::array<DTypeInfo, kDTypeCount> kTable = {{
    {DType::kBool, "bool", 8, 1},
    {DType::kInt8, "int8", 8, 1},
    {DType::kInt16, "int16", 16, 2},
    {DType::kInt32, "int32", 32, 4},
    {DType::kInt64, "int64", 64, 8},
    {DType::kUInt8, "uint8", 8, 1},
    {DType::kUInt16, "uint16", 16, 2},
    {DType::kUInt32, "uint32", 32, 4},
    {DType::kUInt64, "uint64", 64, 8},
    {DType::kFloat16, "float16", 16, 2},
    {DType::kBFloat16, "bfloat16", 16, 2},
    {DType::kFloat32, "float32", 32, 4},
    {DType::kFloat64, "float64", 64, 8},
    {DType::kComplex64, "complex64", 64, 4},
    {DType::kComplex128, "complex128", 128, 8},
    {DType::kFloat8E4M3FN, "float8_e4m3fn", 8, 1},
    {DType::kFloat8E4M3FNUZ, "float8_e4m3fnuz", 8, 1},
    {DType::kFloat8E5M2, "float8_e5m2", 8, 1},
    {DType::kFloat8E5M2FNUZ, "float8_e5m2fnuz", 8, 1},
    {DType::kFloat8E8M0FNU, "float8_e8m0fnu", 8, 1},
    {DType::kFloat4E2M1FN, "float4_e2m1fn", 4, 1},
    {DType::kInt4, "int4", 4, 1},
    {DType::kUInt4, "uint4", 4, 1},
}};

constexpr bool InEnumOrder() {
  for (std::size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<std::size_t>(kTable[i].dtype) != i) return false;
  }
  return true;
}
static_assert(InEnumOrder(), "Info() indexes the table by enum value");

}  // namespace

const DTypeInfo& Info(DType dtype) noexcept { return kTable[static_cast<std::size_t>(dtype)]; }

std::span<const DTypeInfo> AllDTypes() noexcept { return kTable; }

std::optional<DType> DTypeFromName(std::string_view name) noexcept {
  for (const DTypeInfo& info : kTable) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> ByteSize(DType dtype, std::uint64_t count) noexcept {
  const std::uint64_t bits = Info(dtype).bits;
  if (bits < 8) {
    const std::uint64_t per_byte = 8 / bits;
    if (count % per_byte != 0) return std::nullopt;
    return count / per_byte;
  }
  const std::uint64_t bytes = bits / 8;
  if (count > std::numeric_limits<std::uint64_t>::max() / bytes) return std::nullopt;
  return count * bytes;
}

}  // namespace weightlift
