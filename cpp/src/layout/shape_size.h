// How many bytes a shape takes, for shapes that came from outside.
#ifndef WEIGHTLIFT_LAYOUT_SHAPE_SIZE_H_
#define WEIGHTLIFT_LAYOUT_SHAPE_SIZE_H_

#include <cstdint>
#include <span>

namespace weightlift {

enum class ShapeFault : std::uint8_t { kNone, kRank, kOverflow, kPartialByte };

struct ShapeSize {
  std::uint64_t bytes = 0;
  ShapeFault fault = ShapeFault::kNone;
};

// Zero dimensions do not excuse the others: [2^62, 2^62, 0] overflows, as it does in NumPy.
ShapeSize SizeOfShape(std::span<const std::uint64_t> dimensions, std::uint32_t bits) noexcept;

const char* Describe(ShapeFault fault) noexcept;

}  // namespace weightlift

#endif  // WEIGHTLIFT_LAYOUT_SHAPE_SIZE_H_
