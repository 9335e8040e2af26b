// Layouts: what a file holds and where, checked before a byte of payload is read.
//
// Everything here is a pure function of bytes or numbers that came from outside: nothing is opened,
// nothing is allocated that is not in proportion to the input itself, and whatever breaks a rule is
// an Error(kFormat) that says where. All functions are thread-safe.
#ifndef WEIGHTLIFT_LAYOUT_H_
#define WEIGHTLIFT_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <forward_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weightlift/dtype.h"

namespace weightlift {

// NumPy holds no more dimensions.
inline constexpr std::size_t kMaxRank = 64;

// --- safetensors (docs/formats/safetensors.md) ---------------------------------------------------

struct SafetensorsType {
  std::string_view name;  // as the header spells it: "F32", "F8_E4M3"
  DType dtype;
};
// The element types that a safetensors file may hold and this library knows.
std::span<const SafetensorsType> SafetensorsTypes() noexcept;

struct SafetensorsTensor {
  std::string_view name;
  std::size_t first_dimension;  // index into SafetensorsHeader::dimensions
  std::uint32_t rank;
  std::uint32_t type;   // index into SafetensorsTypes()
  std::uint64_t begin;  // first byte, relative to the data section
  std::uint64_t end;
  std::size_t listed;  // its place among the tensors, as the header lists them
};

// Names and metadata are views of the parsed text, or of `unescaped`: keep the text alive. Movable,
// not copyable (the views would still point into the original).
struct SafetensorsHeader {
  SafetensorsHeader() = default;
  SafetensorsHeader(SafetensorsHeader&&) = default;
  SafetensorsHeader& operator=(SafetensorsHeader&&) = default;
  SafetensorsHeader(const SafetensorsHeader&) = delete;
  SafetensorsHeader& operator=(const SafetensorsHeader&) = delete;

  std::span<const std::uint64_t> shape(const SafetensorsTensor& tensor) const noexcept {
    return std::span(dimensions).subspan(tensor.first_dimension, tensor.rank);
  }

  std::vector<SafetensorsTensor> tensors;  // in data order: by begin, end, name
  std::vector<std::uint64_t> dimensions;
  std::vector<std::pair<std::string_view, std::string_view>> metadata;  // sorted by key
  std::uint32_t table_digest = 0;  // CRC-32C of what the header says, see the format's page
  std::forward_list<std::string> unescaped;  // texts that were written with escapes
};

// Metadata under this key is ours: checksums, which the digest cannot cover.
inline constexpr std::string_view kSafetensorsChecksumKey = "weightlift.crc32c";

// Parses the header's JSON text (what follows the 8-byte length); `data_size` is the number of
// bytes that follow it in the file. Throws Error: kFormat for anything that is not exactly one
// valid, unambiguous header whose tensors tile the data without holes; kTruncated where the data
// ends too early; kUnsupported for known types that this library has no equal of. Byte ranges in
// errors are positions in the file.
SafetensorsHeader ParseSafetensorsHeader(std::string_view json, std::uint64_t data_size);

// The file begins with the header's length, little-endian.
inline constexpr std::size_t kSafetensorsLengthBytes = 8;

// What a header is to say: one row a tensor, in the order in which it is to list them.
struct SafetensorsRows {
  std::span<const std::string_view> names;       // valid UTF-8
  std::span<const std::uint32_t> type;           // indexes into SafetensorsTypes()
  std::span<const std::int64_t> dimensions;      // of all shapes, one after another; not negative
  std::span<const std::size_t> first_dimension;  // one a tensor and one past the end
  std::span<const std::uint64_t> begin;          // relative to the data section
  std::span<const std::uint64_t> end;
};

// The beginning of a file: the length and the header's JSON, padded with spaces to a multiple of
// `alignment`. `metadata` is the JSON of "__metadata__", or empty. Nothing is checked: parse it.
std::string WriteSafetensorsHeader(const SafetensorsRows& rows, std::string_view metadata,
                                   std::uint64_t alignment);

// --- any format ----------------------------------------------------------------------------------

// A table of tensors in columns, and the extents of those that are not one plain extent.
struct ExtentTable {
  std::span<const std::string_view> names;
  std::span<const std::int64_t> dimensions;      // of all shapes, one after another
  std::span<const std::size_t> first_dimension;  // one a tensor and one past the end
  std::span<const std::uint32_t> bits;           // an element
  std::span<const bool> plain;                   // false: see `pieces`
  std::span<const std::uint32_t> source;         // the plain extents
  std::span<const std::uint64_t> offset;
  std::span<const std::uint64_t> nbytes;
  std::span<const std::uint32_t> strided;  // rows that are not in C order

  struct Piece {
    std::uint32_t tensor;
    std::uint32_t source;
    std::uint64_t offset;
    std::uint64_t nbytes;
  };
  std::span<const Piece> pieces;

  std::span<const std::uint64_t> source_sizes;
  std::span<const std::string_view> source_names;
};

enum class Overlap : std::uint8_t { kRefused, kAllowed };

// Checked, in one pass: names are unique and not empty; dimensions are not negative, their product
// times the bits does not overflow and is whole bytes, and, for plain rows, is the extent's size
// (rows in `strided` may span more or less: only that they have bytes when the shape is not empty);
// every extent lies inside its source; no two extents overlap, empty ones aside.
// Throws Error(kFormat) that names the first tensor at fault, its file and byte range.
void ValidateExtents(const ExtentTable& table, Overlap overlap);

}  // namespace weightlift

#endif  // WEIGHTLIFT_LAYOUT_H_
