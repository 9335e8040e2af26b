#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/checked.h"
#include "layout/duplicates.h"
#include "layout/shape_size.h"
#include "weightlift/error.h"
#include "weightlift/layout.h"

namespace weightlift {
namespace {

using Piece = ExtentTable::Piece;

class ExtentValidator {
 public:
  explicit ExtentValidator(const ExtentTable& table) : table_(table) {}

  void Run(Overlap overlap) {
    CheckColumns();
    CheckNames();
    CheckRows();
    for (const Piece& piece : table_.pieces) CheckInside(piece);
    if (overlap == Overlap::kRefused) CheckOverlap();
  }

 private:
  void CheckColumns() const;
  void CheckNames() const;
  void CheckRows() const;
  std::uint64_t RowBytes(std::size_t i) const;
  void CheckInside(const Piece& piece) const;
  void CheckOverlap() const;

  Piece PlainPiece(std::size_t i) const {
    return {static_cast<std::uint32_t>(i), table_.source[i], table_.offset[i], table_.nbytes[i]};
  }
  [[noreturn]] void FailAt(const Piece& piece, const std::string& message) const;
  [[noreturn]] void FailRow(std::size_t i, const std::string& message) const;

  const ExtentTable& table_;
};

// The caller's mistakes, not the file's.
void ExtentValidator::CheckColumns() const {
  const std::size_t n = table_.names.size();
  const bool fits = table_.first_dimension.size() == n + 1 &&
                    table_.first_dimension[n] <= table_.dimensions.size() &&
                    table_.bits.size() == n && table_.plain.size() == n &&
                    table_.source.size() == n && table_.offset.size() == n &&
                    table_.nbytes.size() == n && table_.strided.size() <= n &&
                    table_.source_names.size() == table_.source_sizes.size() &&
                    n <= std::numeric_limits<std::uint32_t>::max();
  const auto row_exists = [n](std::uint32_t row) { return row < n; };
  if (!fits || !std::ranges::all_of(table_.strided, row_exists) ||
      !std::ranges::all_of(table_.pieces, row_exists, &Piece::tensor)) {
    throw Error(ErrorCode::kInvalidArgument, "the columns of the table do not fit together");
  }
}

void ExtentValidator::CheckNames() const {
  for (std::size_t i = 0; i < table_.names.size(); ++i) {
    if (table_.names[i].empty()) FailRow(i, "the name of a tensor is empty");
  }
  const auto name = [this](std::size_t i) { return table_.names[i]; };
  if (const auto twice = FindDuplicate(table_.names.size(), name)) {
    FailRow(*twice, "two tensors have this name");
  }
}

void ExtentValidator::CheckRows() const {
  std::vector<bool> strided(table_.names.size());
  for (const std::uint32_t row : table_.strided) strided[row] = true;
  for (std::size_t i = 0; i < table_.names.size(); ++i) {
    const std::uint64_t bytes = RowBytes(i);
    if (!table_.plain[i]) continue;
    const Piece extent = PlainPiece(i);
    if (strided[i]) {
      if (extent.nbytes == 0 && bytes != 0)
        FailAt(extent, "a tensor that is not empty has no bytes");
    } else if (extent.nbytes != bytes) {
      FailAt(extent, "the extent has " + std::to_string(extent.nbytes) +
                         " bytes, dtype and shape need " + std::to_string(bytes));
    }
    CheckInside(extent);
  }
}

// Bytes of row i's dtype and shape.
std::uint64_t ExtentValidator::RowBytes(std::size_t i) const {
  const std::size_t first = table_.first_dimension[i];
  const std::size_t rank = table_.first_dimension[i + 1] - first;
  if (rank > kMaxRank) FailRow(i, Describe(ShapeFault::kRank));
  std::uint64_t dimensions[kMaxRank];
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::int64_t dimension = table_.dimensions[first + axis];
    if (dimension < 0) FailRow(i, "dimension " + std::to_string(dimension) + " is negative");
    dimensions[axis] = static_cast<std::uint64_t>(dimension);
  }
  const ShapeSize size = SizeOfShape(std::span(dimensions, rank), table_.bits[i]);
  if (size.fault != ShapeFault::kNone) FailRow(i, Describe(size.fault));
  return size.bytes;
}

void ExtentValidator::CheckInside(const Piece& piece) const {
  if (piece.source >= table_.source_sizes.size()) {
    FailAt(piece, "the tensor lies in source " + std::to_string(piece.source) + " of " +
                      std::to_string(table_.source_sizes.size()));
  }
  const std::uint64_t size = table_.source_sizes[piece.source];
  if (!FitsInside(piece.offset, piece.nbytes, size)) {
    FailAt(piece, "the tensor lies beyond the end of the file, which has " + std::to_string(size) +
                      " bytes");
  }
}

void ExtentValidator::CheckOverlap() const {
  std::vector<Piece> extents;
  extents.reserve(table_.names.size() + table_.pieces.size());
  for (std::size_t i = 0; i < table_.names.size(); ++i) {
    if (table_.plain[i] && table_.nbytes[i] != 0) extents.push_back(PlainPiece(i));
  }
  for (const Piece& piece : table_.pieces) {
    if (piece.nbytes != 0) extents.push_back(piece);
  }
  const auto before = [](const Piece& a, const Piece& b) {
    return std::tie(a.source, a.offset, a.tensor) < std::tie(b.source, b.offset, b.tensor);
  };
  if (!std::ranges::is_sorted(extents, before)) std::ranges::sort(extents, before);
  for (std::size_t i = 1; i < extents.size(); ++i) {
    const Piece& previous = extents[i - 1];
    const Piece& piece = extents[i];
    if (piece.source == previous.source && piece.offset < previous.offset + previous.nbytes) {
      FailAt(piece, "the tensor overlaps " +
                        (previous.tensor == piece.tensor
                             ? std::string("itself")
                             : "tensor '" + std::string(table_.names[previous.tensor]) + "'") +
                        " at bytes " + std::to_string(previous.offset) + "-" +
                        std::to_string(previous.offset + previous.nbytes));
    }
  }
}

void ExtentValidator::FailAt(const Piece& piece, const std::string& message) const {
  ErrorPlace place;
  place.tensor = piece.tensor;
  place.tensor_name = table_.names[piece.tensor];
  if (piece.source < table_.source_names.size()) place.path = table_.source_names[piece.source];
  place.begin = piece.offset;
  place.end = CheckedAdd(piece.offset, piece.nbytes);
  throw Error(ErrorCode::kFormat, message, std::move(place));
}

void ExtentValidator::FailRow(std::size_t i, const std::string& message) const {
  if (table_.plain[i]) FailAt(PlainPiece(i), message);
  ErrorPlace place;
  place.tensor = i;
  place.tensor_name = table_.names[i];
  throw Error(ErrorCode::kFormat, message, std::move(place));
}

}  // namespace

void ValidateExtents(const ExtentTable& table, Overlap overlap) {
  ExtentValidator(table).Run(overlap);
}

}  // namespace weightlift
