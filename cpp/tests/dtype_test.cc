#include "weightlift/dtype.h"

#include <cstdint>
#include <limits>
#include <set>
#include <string_view>

#include "check.h"

using namespace weightlift;

TEST(EveryTypeIsFoundByItsName) {
  std::set<std::string_view> names;
  CHECK_EQ(AllDTypes().size(), kDTypeCount);
  for (const DTypeInfo& info : AllDTypes()) {
    CHECK(names.insert(info.name).second);
    CHECK(DTypeFromName(info.name) == info.dtype);
    CHECK_EQ(Info(info.dtype).name, info.name);
    CHECK(info.word * 8 <= info.bits || info.bits < 8);
  }
}

TEST(UnknownNamesAreNotTypes) {
  for (const std::string_view name : {"", "float", "Float32", "float32 ", "object", "int128"}) {
    CHECK(!DTypeFromName(name).has_value());
  }
}

TEST(ByteOrderUnits) {
  CHECK_EQ(Info(DType::kComplex64).word, 4);
  CHECK_EQ(Info(DType::kComplex128).word, 8);
  CHECK_EQ(Info(DType::kBFloat16).word, 2);
  CHECK_EQ(Info(DType::kInt4).word, 1);
}

TEST(ByteSizes) {
  CHECK(ByteSize(DType::kFloat32, 3) == 12U);
  CHECK(ByteSize(DType::kComplex128, 0) == 0U);
  CHECK(ByteSize(DType::kInt4, 6) == 3U);
  CHECK(ByteSize(DType::kFloat4E2M1FN, 0) == 0U);
}

TEST(PackedTypesMustFillWholeBytes) {
  CHECK(!ByteSize(DType::kUInt4, 7).has_value());
  CHECK(!ByteSize(DType::kInt4, 1).has_value());
}

TEST(ByteSizeRefusesOverflow) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  CHECK(ByteSize(DType::kUInt8, kMax) == kMax);
  CHECK(ByteSize(DType::kFloat64, kMax / 8) == kMax / 8 * 8);
  CHECK(!ByteSize(DType::kFloat64, kMax / 8 + 1).has_value());
  CHECK(!ByteSize(DType::kFloat16, kMax).has_value());
  CHECK(ByteSize(DType::kUInt4, kMax - 1) == (kMax - 1) / 2);
}
