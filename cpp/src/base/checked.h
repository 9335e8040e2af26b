// Arithmetic on sizes and offsets that came from a file or a caller: overflow is an answer, not an
// accident.
#ifndef WEIGHTLIFT_BASE_CHECKED_H_
#define WEIGHTLIFT_BASE_CHECKED_H_

#include <concepts>
#include <cstdint>
#include <optional>

namespace weightlift {

template <std::unsigned_integral T>
constexpr std::optional<T> CheckedAdd(T a, T b) noexcept {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
constexpr std::optional<T> CheckedMultiply(T a, T b) noexcept {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Whether [offset, offset + nbytes) lies inside [0, size).
constexpr bool FitsInside(std::uint64_t offset, std::uint64_t nbytes, std::uint64_t size) noexcept {
  return offset <= size && nbytes <= size - offset;
}

// `alignment` is a power of two.
template <std::unsigned_integral T>
constexpr T AlignDown(T value, T alignment) noexcept {
  return value & ~(alignment - 1);
}

// nullopt where the aligned value does not fit.
template <std::unsigned_integral T>
constexpr std::optional<T> CheckedAlignUp(T value, T alignment) noexcept {
  const std::optional<T> sum = CheckedAdd<T>(value, alignment - 1);
  if (!sum) return std::nullopt;
  return AlignDown<T>(*sum, alignment);
}

}  // namespace weightlift

#endif  // WEIGHTLIFT_BASE_CHECKED_H_
