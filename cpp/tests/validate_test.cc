#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "weightlift/layout.h"

namespace {

using weightlift::ErrorCode;
using weightlift::ExtentTable;
using weightlift::Overlap;

// A table that owns its columns; two plain float32 tensors of 8 bytes in a file of 100.
struct Table {
  std::vector<std::string_view> names{"a", "b"};
  std::vector<std::int64_t> dimensions{2, 2};
  std::vector<std::size_t> first_dimension{0, 1, 2};
  std::vector<std::uint32_t> bits{32, 32};
  std::array<bool, 2> plain{true, true};
  std::vector<std::uint32_t> source{0, 0};
  std::vector<std::uint64_t> offset{0, 8};
  std::vector<std::uint64_t> nbytes{8, 8};
  std::vector<std::uint32_t> strided;
  std::vector<ExtentTable::Piece> pieces;
  std::vector<std::uint64_t> source_sizes{100, 20};
  std::vector<std::string_view> source_names{"one.bin", "two.bin"};

  void Validate(Overlap overlap = Overlap::kRefused) const {
    weightlift::ValidateExtents({.names = names,
                                 .dimensions = dimensions,
                                 .first_dimension = first_dimension,
                                 .bits = bits,
                                 .plain = plain,
                                 .source = source,
                                 .offset = offset,
                                 .nbytes = nbytes,
                                 .strided = strided,
                                 .pieces = pieces,
                                 .source_sizes = source_sizes,
                                 .source_names = source_names},
                                overlap);
  }
};

}  // namespace

TEST(GoodTablesPass) {
  Table{}.Validate();
  Table table;
  table.offset = {92, 0};  // any order; up to the last byte
  table.Validate();
  table.source = {0, 1};
  table.offset = {0, 0};
  table.Validate();
  weightlift::ValidateExtents({.names = {},
                               .dimensions = {},
                               .first_dimension = std::vector<std::size_t>{0},
                               .bits = {},
                               .plain = {},
                               .source = {},
                               .offset = {},
                               .nbytes = {},
                               .strided = {},
                               .pieces = {},
                               .source_sizes = {},
                               .source_names = {}},
                              Overlap::kRefused);
}

TEST(NamesAreUniqueAndNotEmpty) {
  Table table;
  table.names = {"a", "a"};
  CHECK_THROWS(kFormat, table.Validate());
  table.names = {"a", ""};
  CHECK_THROWS(kFormat, table.Validate());
}

TEST(ShapesAreSane) {
  Table table;
  table.dimensions = {-2, 2};
  CHECK_THROWS(kFormat, table.Validate());
  table.dimensions = {std::int64_t{1} << 62, 2};
  CHECK_THROWS(kFormat, table.Validate());
  table.dimensions = {3, 2};
  CHECK_THROWS(kFormat, table.Validate());
  table = {};
  table.bits = {4, 32};
  CHECK_THROWS(kFormat, table.Validate());
  table.nbytes = {1, 8};
  table.Validate();
  table.dimensions = {3, 2};  // a byte and a half
  CHECK_THROWS(kFormat, table.Validate());
  table = {};
  table.dimensions.assign(66, 1);
  table.first_dimension = {0, 65, 66};
  table.nbytes = {4, 4};
  CHECK_THROWS(kFormat, table.Validate());
  table.first_dimension = {0, 64, 65};
  table.Validate();
}

TEST(ExtentsLieInTheirFile) {
  Table table;
  table.offset = {0, 93};
  CHECK_THROWS(kFormat, table.Validate());
  table.offset = {0, ~std::uint64_t{0}};
  CHECK_THROWS(kFormat, table.Validate());
  table = {};
  table.source = {0, 2};
  CHECK_THROWS(kFormat, table.Validate());
  table = {};
  table.source = {0, 1};
  table.offset = {0, 13};
  CHECK_THROWS(kFormat, table.Validate());
}

TEST(ExtentsDoNotOverlap) {
  Table table;
  table.offset = {0, 7};
  CHECK_THROWS(kFormat, table.Validate());
  table.Validate(Overlap::kAllowed);
  table.offset = {50, 50};
  CHECK_THROWS(kFormat, table.Validate());
  table.offset = {50, 44};
  CHECK_THROWS(kFormat, table.Validate());
  table.dimensions = {2, 0};  // an empty tensor may lie inside another
  table.nbytes = {8, 0};
  table.Validate();
}

TEST(StridedRowsMaySpanMoreOrLess) {
  Table table;
  table.nbytes = {5, 8};
  CHECK_THROWS(kFormat, table.Validate());
  table.strided = {0};
  table.Validate();
  table.nbytes = {0, 8};
  CHECK_THROWS(kFormat, table.Validate());
  table.dimensions = {0, 2};
  table.Validate();
}

TEST(PiecesAreCheckedLikeExtents) {
  Table table;
  table.plain = {false, true};
  table.nbytes = {0, 8};
  table.pieces = {{0, 0, 16, 3}, {0, 1, 0, 20}};
  table.Validate();
  table.pieces = {{0, 1, 0, 21}};
  CHECK_THROWS(kFormat, table.Validate());
  table.pieces = {{0, 2, 0, 1}};
  CHECK_THROWS(kFormat, table.Validate());
  table.pieces = {{0, 0, 15, 3}};  // overlaps b
  CHECK_THROWS(kFormat, table.Validate());
  table.pieces = {{0, 0, 20, 3}, {0, 0, 22, 3}};  // overlaps itself
  CHECK_THROWS(kFormat, table.Validate());
  table.pieces = {{0, 0, 10, 0}};
  table.Validate();
  table.pieces = {};
  table.dimensions = {-1, 2};
  CHECK_THROWS(kFormat, table.Validate());
}

TEST(ErrorsNameTensorFileAndBytes) {
  Table table;
  table.source = {0, 1};
  table.offset = {0, 15};
  try {
    table.Validate();
    CHECK(false);
  } catch (const weightlift::Error& error) {
    CHECK_EQ(error.place().tensor_name, std::string("b"));
    CHECK_EQ(error.place().path, std::string("two.bin"));
    CHECK_EQ(error.place().begin.value_or(0), 15);
    CHECK_EQ(error.place().end.value_or(0), 23);
  }
  table = {};
  table.offset = {4, 0};
  try {
    table.Validate();
    CHECK(false);
  } catch (const weightlift::Error& error) {
    CHECK_EQ(error.place().tensor_name, std::string("a"));
    CHECK(std::string_view(error.what()).find("'b' at bytes 0-8") != std::string_view::npos);
  }
}

TEST(ColumnsMustFitTogether) {
  Table table;
  table.bits = {32};
  CHECK_THROWS(kInvalidArgument, table.Validate());
  table = {};
  table.strided = {2};
  CHECK_THROWS(kInvalidArgument, table.Validate());
  table = {};
  table.pieces = {{2, 0, 0, 1}};
  CHECK_THROWS(kInvalidArgument, table.Validate());
  table = {};
  table.first_dimension = {0, 1, 3};
  CHECK_THROWS(kInvalidArgument, table.Validate());
}

TEST(ManyRowsInAnyOrder) {
  constexpr std::size_t kRows = 50'000;
  std::vector<std::string> names;
  std::vector<std::uint64_t> offset;
  for (std::size_t i = 0; i < kRows; ++i) {
    names.push_back(std::to_string(i));
    offset.push_back((i * 7919 % kRows) * 4);  // 7919 is prime to kRows
  }
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::vector<std::int64_t> dimensions(kRows, 1);
  std::vector<std::size_t> first(kRows + 1);
  for (std::size_t i = 0; i <= kRows; ++i) first[i] = i;
  const std::vector<std::uint32_t> bits(kRows, 32);
  const std::vector<std::uint32_t> source(kRows, 0);
  const std::vector<std::uint64_t> nbytes(kRows, 4);
  static constexpr auto kPlain = [] {
    std::array<bool, kRows> plain{};
    plain.fill(true);
    return plain;
  }();
  const std::vector<std::uint64_t> sizes{kRows * 4};
  const std::vector<std::string_view> files{"f"};
  const auto validate = [&] {
    weightlift::ValidateExtents({.names = views,
                                 .dimensions = dimensions,
                                 .first_dimension = first,
                                 .bits = bits,
                                 .plain = kPlain,
                                 .source = source,
                                 .offset = offset,
                                 .nbytes = nbytes,
                                 .strided = {},
                                 .pieces = {},
                                 .source_sizes = sizes,
                                 .source_names = files},
                                Overlap::kRefused);
  };
  validate();
  offset[kRows / 2] += 2;
  CHECK_THROWS(kFormat, validate());
}
