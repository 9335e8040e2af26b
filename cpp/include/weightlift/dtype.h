// Element types: the one table that C++ and Python share.
//
// A dtype is stored little-endian. Sub-byte types (float4, int4, uint4) are packed, two elements a
// byte, low nibble first, and are moved as raw bytes: the core never unpacks them.
#ifndef WEIGHTLIFT_DTYPE_H_
#define WEIGHTLIFT_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace weightlift {

enum class DType : std::uint8_t {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex64,
  kComplex128,
  kFloat8E4M3FN,
  kFloat8E4M3FNUZ,
  kFloat8E5M2,
  kFloat8E5M2FNUZ,
  kFloat8E8M0FNU,
  kFloat4E2M1FN,
  kInt4,
  kUInt4,
};

inline constexpr std::size_t kDTypeCount = 23;

struct DTypeInfo {
  DType dtype;
  std::string_view name;  // NumPy or ml_dtypes name: "float32", "bfloat16", "float8_e4m3fn"
  std::uint8_t bits;      // bits an element
  std::uint8_t word;      // bytes of one byte-order unit: 4 for complex64, 1 for sub-byte types
};

const DTypeInfo& Info(DType dtype) noexcept;
std::span<const DTypeInfo> AllDTypes() noexcept;                     // in enum order
std::optional<DType> DTypeFromName(std::string_view name) noexcept;  // nullopt: no such type

// Bytes that `count` elements take; nullopt on overflow, or where sub-byte elements do not fill
// whole bytes.
std::optional<std::uint64_t> ByteSize(DType dtype, std::uint64_t count) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_DTYPE_H_
