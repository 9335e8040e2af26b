#include "layout/shape_size.h"

#include <limits>
#include <optional>

#include "base/checked.h"
#include "weightlift/layout.h"

namespace weightlift {

ShapeSize SizeOfShape(std::span<const std::uint64_t> dimensions, std::uint32_t bits) noexcept {
  constexpr auto kMaxBytes = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (dimensions.size() > kMaxRank) return {0, ShapeFault::kRank};
  std::uint64_t elements = 1;
  bool empty = false;
  for (const std::uint64_t dimension : dimensions) {
    if (dimension == 0) {
      empty = true;
      continue;
    }
    const std::optional<std::uint64_t> product = CheckedMultiply(elements, dimension);
    if (!product) return {0, ShapeFault::kOverflow};
    elements = *product;
  }
  // bytes = elements * bits / 8, without overflow on the way: eight elements take `bits` bytes.
  const std::optional<std::uint64_t> whole = CheckedMultiply<std::uint64_t>(elements / 8, bits);
  const std::uint64_t rest = elements % 8 * bits;
  const std::optional<std::uint64_t> bytes =
      whole ? CheckedAdd<std::uint64_t>(*whole, rest / 8) : std::nullopt;
  if (!bytes || *bytes > kMaxBytes) return {0, ShapeFault::kOverflow};
  if (empty) return {0, ShapeFault::kNone};
  if (rest % 8 != 0) return {0, ShapeFault::kPartialByte};
  return {*bytes, ShapeFault::kNone};
}

const char* Describe(ShapeFault fault) noexcept {
  switch (fault) {
    case ShapeFault::kNone:
      return "no fault";
    case ShapeFault::kRank:
      return "more than 64 dimensions, which NumPy cannot hold";
    case ShapeFault::kOverflow:
      return "the size of the shape overflows";
    case ShapeFault::kPartialByte:
      return "the elements do not fill whole bytes";
  }
  return "unknown fault";
}

}  // namespace weightlift
