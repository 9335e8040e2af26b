// Copies ranges of a strided array's bytes, in C order, into contiguous memory.
#ifndef WEIGHTLIFT_PLAN_GATHER_H_
#define WEIGHTLIFT_PLAN_GATHER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weightlift/plan.h"

namespace weightlift {

inline constexpr std::size_t kMaxAxes = 64;

// Immutable, so it may be shared by threads. Strides may be negative or zero.
class Gather {
 public:
  // `source` must be valid (see ValidateWrite); its memory is borrowed.
  explicit Gather(const MemorySource& source);

  // The array as it is, when its C order is its order in memory; else nullptr.
  const std::byte* contiguous() const noexcept { return axes_.empty() ? data_ : nullptr; }

  // Fills `out` with the bytes from `begin` on of the array in C order.
  void Copy(std::uint64_t begin, std::span<std::byte> out) const;

 private:
  struct Axis {
    std::uint64_t length;
    std::int64_t stride;  // bytes
  };
  class Cursor;

  void CopyItems(std::uint64_t first, std::uint64_t count, std::byte* out) const;
  // Items of one row of a slab: one after another along the axes behind rows_.
  void CopyRow(const std::byte* row, std::uint64_t column, std::uint64_t count,
               std::byte* out) const;
  // Whole rows of a slab, in tiles.
  void CopyRows(const std::byte* slab, std::uint64_t count, std::byte* out) const;
  const std::byte* ItemAddress(std::uint64_t index) const;

  const std::byte* data_;
  std::uint64_t item_;  // bytes that lie together and are copied as one
  std::vector<Axis>
      axes_;  // of items, outermost first; none of length 1, none that could be merged
  // The axis whose steps are the shortest. Where it is not the last one, the array is transposed:
  // neighbours along it share cache lines, so they are copied together, in tiles.
  std::size_t rows_ = 0;
  std::uint64_t columns_ = 1;  // items in a row: the product of the axes behind rows_
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_GATHER_H_
