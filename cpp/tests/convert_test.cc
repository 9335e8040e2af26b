// The conformance suite against NumPy and ml_dtypes is tests/unit/test_kernels.py; here: that every
// instruction set gives the portable bits, stays inside its memory, and the documented cases.
#include "weightlift/convert.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "isas.h"

using namespace weightlift;

namespace {

using ByteVector = std::vector<std::byte>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kDoubleNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
ByteVector ToBytes(const std::vector<T>& values) {
  ByteVector bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
std::vector<T> FromBytes(const ByteVector& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Into memory of exactly the right size, so that a sanitizer sees one byte too many.
ByteVector Run(const Pipeline& pipeline, const ByteVector& source) {
  const std::size_t n = source.size() / pipeline.in_item();
  ByteVector target(n * pipeline.out_item());
  pipeline.Run(source.data(), target.data(), n);
  return target;
}

template <class To, class From>
std::vector<To> Convert(const Step& step, const std::vector<From>& values) {
  return FromBytes<To>(Run(Pipeline({step}), ToBytes(values)));
}

// Random bits, and all of the upper 16 bits of float32 near the rounding boundaries.
ByteVector Sample() {
  std::vector<std::uint32_t> words;
  for (std::uint32_t high = 0; high < 0x10000; high += 13) {
    for (const std::uint32_t low : {0x0000U, 0x1000U, 0x7FFFU, 0x8000U, 0x8001U}) {
      words.push_back((high << 16) | low);
    }
  }
  ByteVector sample = ToBytes(words);
  const ByteVector random = check::RandomBytes(16 * 1021, 4);
  sample.insert(sample.end(), random.begin(), random.end());
  sample.resize(sample.size() / 16 * 16);
  return sample;
}

std::vector<std::pair<CastTo, Pipeline>> EveryCast() {
  std::vector<std::pair<CastTo, Pipeline>> casts;
  for (const DTypeInfo& from : AllDTypes()) {
    for (const DTypeInfo& to : AllDTypes()) {
      if (!CanCast(from.dtype, to.dtype)) continue;
      for (const bool saturate : {false, true}) {
        const CastTo cast{from.dtype, to.dtype, saturate};
        casts.emplace_back(cast, Pipeline({cast}));
      }
    }
  }
  return casts;
}

}  // namespace

TEST(EveryIsaCastsAsThePortableOne) {
  const ByteVector sample = Sample();
  const auto casts = EveryCast();
  CHECK_EQ(casts.size(), (18U * 18U + 4U) * 2U);
  const std::string before(ActiveIsa());
  for (const auto& [cast, pipeline] : casts) {
    SetIsa("portable");
    const ByteVector expected = Run(pipeline, sample);
    for (const std::string_view isa : AvailableIsas()) {
      SetIsa(isa);
      if (Run(pipeline, sample) == expected) continue;
      check::Fail(__FILE__, __LINE__,
                  std::string(isa) + " differs: " + std::string(Info(cast.from).name) + " to " +
                      std::string(Info(cast.to).name));
    }
  }
  SetIsa(before);
}

TEST(ShortAndUnalignedMemory) {
  const ByteVector sample = Sample();
  std::vector<Pipeline> pipelines;
  for (const auto& [cast, pipeline] : EveryCast()) pipelines.push_back(pipeline);
  for (const std::uint32_t word : {2U, 4U, 8U, 16U}) {
    pipelines.push_back(Pipeline({Byteswap{word, word}}));
    pipelines.push_back(Pipeline({Byteswap{word, 3 * word}}));
  }
  for (const DType stored : {DType::kUInt8, DType::kUInt16}) {
    pipelines.push_back(Pipeline({AffineDecode{stored, DType::kFloat32, 0.3, -7}}));
    pipelines.push_back(Pipeline({AffineDecode{stored, DType::kInt32, 0.3, -7}}));
    pipelines.push_back(Pipeline({AffineEncode{stored, 0.01, -1, 1.55}}));
  }
  check::OnEveryIsa([&] {
    for (const Pipeline& pipeline : pipelines) {
      constexpr std::size_t kMost = 67;
      const ByteVector whole(sample.end() - static_cast<long>(kMost * pipeline.in_item()),
                             sample.end());
      const ByteVector expected = Run(pipeline, whole);
      for (std::size_t n = 0; n <= kMost; ++n) {
        const std::size_t shift = n % 5;
        ByteVector source(shift + n * pipeline.in_item());
        if (n > 0) std::memcpy(source.data() + shift, whole.data(), n * pipeline.in_item());
        ByteVector target(shift + n * pipeline.out_item());
        pipeline.Run(source.data() + shift, target.data() + shift, n);
        CHECK(n == 0 ||
              std::memcmp(target.data() + shift, expected.data(), n * pipeline.out_item()) == 0);
      }
    }
  });
}

TEST(KnownHalves) {
  check::OnEveryIsa([] {
    const std::vector<float> values = {1,        -2,       65504,      65519.996F, 65520,
                                       0x1p-24F, 0x1p-25F, 0x1.8p-25F, -0.0F,      -kInfinity};
    const std::vector<std::uint16_t> codes = {0x3C00, 0xC000, 0x7BFF, 0x7BFF, 0x7C00,
                                              0x0001, 0x0000, 0x0001, 0x8000, 0xFC00};
    CHECK(Convert<std::uint16_t>(CastTo{DType::kFloat32, DType::kFloat16}, values) == codes);
    const auto saturated = Convert<std::uint16_t>(CastTo{DType::kFloat32, DType::kFloat16, true},
                                                  std::vector<float>{1e9F, -1e9F, kInfinity});
    CHECK(saturated == (std::vector<std::uint16_t>{0x7BFF, 0xFBFF, 0x7C00}));
  });
}

TEST(SignallingNansSurviveDecodingHalves) {
  check::OnEveryIsa([] {
    const std::vector<std::uint16_t> codes(33, 0x7C01);
    const auto bits = Convert<std::uint32_t>(CastTo{DType::kFloat16, DType::kFloat32}, codes);
    CHECK(bits == std::vector<std::uint32_t>(33, 0x7F802000));
  });
}

TEST(NarrowingFromDoubleRoundsOnce) {
  check::OnEveryIsa([] {
    const std::vector<double> values = {1 + 0x1p-8 + 0x1p-40, -1 - 0x1p-8 - 0x1p-40, 1 + 0x1p-8};
    CHECK(Convert<std::uint16_t>(CastTo{DType::kFloat64, DType::kBFloat16}, values) ==
          (std::vector<std::uint16_t>{0x3F81, 0xBF81, 0x3F80}));
  });
}

TEST(WideIntegersRoundOnce) {
  check::OnEveryIsa([] {
    constexpr std::int64_t kTie = (std::int64_t{1} << 62) + (std::int64_t{1} << 54);
    const std::vector<std::int64_t> values = {kTie, kTie + 1, kTie - 1, -kTie, -kTie - 1};
    CHECK(Convert<std::uint16_t>(CastTo{DType::kInt64, DType::kBFloat16}, values) ==
          (std::vector<std::uint16_t>{0x5E80, 0x5E81, 0x5E80, 0xDE80, 0xDE81}));
  });
}

TEST(FloatsToIntegersSaturate) {
  check::OnEveryIsa([] {
    const std::vector<float> values = {-1e30F, -128.9F, -0.5F, 127.9F, 1e30F, kNan, kInfinity};
    CHECK(Convert<std::int8_t>(CastTo{DType::kFloat32, DType::kInt8}, values) ==
          (std::vector<std::int8_t>{-128, -128, 0, 127, 127, 0, 127}));
    constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
    constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
    CHECK(Convert<std::int64_t>(CastTo{DType::kFloat32, DType::kInt64}, values) ==
          (std::vector<std::int64_t>{kMin, -128, 0, 127, kMax, 0, kMax}));
  });
}

TEST(IntegersWrapOrSaturate) {
  check::OnEveryIsa([] {
    const std::vector<std::int32_t> values = {-1, 300, -300, 127};
    CHECK(Convert<std::uint8_t>(CastTo{DType::kInt32, DType::kUInt8}, values) ==
          (std::vector<std::uint8_t>{255, 44, 212, 127}));
    CHECK(Convert<std::uint8_t>(CastTo{DType::kInt32, DType::kUInt8, true}, values) ==
          (std::vector<std::uint8_t>{0, 255, 0, 127}));
  });
}

TEST(QuantisationIsExact) {
  check::OnEveryIsa([] {
    std::vector<float> values;
    for (const std::uint32_t seed : {5U, 6U}) {
      for (const std::byte byte : check::RandomBytes(9999, seed)) {
        values.push_back(static_cast<float>(std::to_integer<int>(byte)) * 0.013F - 1.3F);
      }
    }
    const MinMax range = FindMinMax(ToBytes(values).data(), values.size());
    const AffineParameters chosen = ChooseAffine(range.min, range.max, 255);
    const auto got = Convert<std::uint8_t>(
        AffineEncode{DType::kUInt8, chosen.scale, chosen.min, chosen.max}, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double clipped =
          std::fmin(std::fmax(static_cast<double>(values[i]), chosen.min), chosen.max);
      CHECK_EQ(static_cast<double>(got[i]), std::nearbyint((clipped - chosen.min) / chosen.scale));
    }
    const auto back =
        Convert<float>(AffineDecode{DType::kUInt8, DType::kFloat32, chosen.scale, chosen.min}, got);
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK_EQ(back[i], static_cast<float>(got[i] * chosen.scale + chosen.min));
    }
  });
}

TEST(TiesGoToEven) {
  check::OnEveryIsa([] {
    std::vector<float> values;
    std::vector<std::uint8_t> expected;
    for (int i = 0; i < 510; ++i) {  // scale 2: every odd value is a tie
      values.push_back(static_cast<float>(i));
      expected.push_back(static_cast<std::uint8_t>(std::nearbyint(i / 2.0)));
    }
    CHECK(Convert<std::uint8_t>(AffineEncode{DType::kUInt8, 2, 0, 510}, values) == expected);
  });
}

// Of ranges of all sizes, the values closest to where the level changes; and what is far outside.
TEST(NearTiesAreRoundedAsTheQuotientIs) {
  struct Range {
    float min, max;
  };
  const std::vector<Range> ranges = {{-1, 1},           {-0.031F, 0.03F},      {0, 0.7F},
                                     {-3, 0},           {-1e-9F, 250},         {-250, 1e-9F},
                                     {-1e-36F, 2e-36F}, {-3e38F, 3e38F},       {0.5F, 1},
                                     {1000, 1001},      {-0x1p-101F, 0x1p-99F}};
  check::OnEveryIsa([&] {
    for (const auto& [min, max] : ranges) {
      const AffineParameters chosen = ChooseAffine(min, max, 255);
      for (const double part : {1.0, 100.5 / 255, 0.3}) {  // of the grid, by the clipping
        const AffineEncode step{DType::kUInt8, chosen.scale, chosen.min,
                                chosen.min + (chosen.max - chosen.min) * part};
        std::vector<float> values = {kNan, kInfinity, -kInfinity, 3.4e38F, -3.4e38F, 0, -0.0F};
        for (int level = -1; level <= 256; ++level) {
          auto tie = static_cast<float>((level + 0.5) * step.scale + step.min);
          for (int i = 0; i < 6; ++i) tie = std::nextafter(tie, -kInfinity);
          for (int i = 0; i < 12; ++i) {
            values.push_back(tie);
            tie = std::nextafter(tie, kInfinity);
          }
          for (const double off : {0x1p-13, 0x1p-14, 0x1p-15, 0x1p-16}) {
            values.push_back(static_cast<float>((level + 0.5 - off) * step.scale + step.min));
            values.push_back(static_cast<float>((level + 0.5 + off) * step.scale + step.min));
          }
        }
        const auto got = Convert<std::uint8_t>(step, values);
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double clipped =
              std::fmin(std::fmax(static_cast<double>(values[i]), step.min), step.max);
          const double level = std::nearbyint((clipped - step.min) / step.scale);
          CHECK_EQ(int{got[i]},
                   std::isnan(values[i]) ? 0 : static_cast<int>(std::fmin(level, 255)));
        }
      }
    }
  });
}

TEST(DecodingToInt32RoundsHalfUp) {
  check::OnEveryIsa([] {
    const std::vector<std::uint8_t> codes = {0, 1, 2, 3, 4, 5};
    CHECK(Convert<std::int32_t>(AffineDecode{DType::kUInt8, DType::kInt32, 1, -2.5}, codes) ==
          (std::vector<std::int32_t>{-2, -1, 0, 1, 2, 3}));
    // ToInt32 wraps modulo 2^32.
    CHECK(Convert<std::int32_t>(AffineDecode{DType::kUInt8, DType::kInt32, 0x1p31, -1}, codes) ==
          (std::vector<std::int32_t>{-1, 0x7FFFFFFF, -1, 0x7FFFFFFF, -1, 0x7FFFFFFF}));
    CHECK(Convert<std::int32_t>(AffineDecode{DType::kUInt8, DType::kInt32, kDoubleNan, 0}, codes) ==
          std::vector<std::int32_t>(6, 0));
  });
}

TEST(StepsChainThroughTiles) {
  // float32, big-endian -> float16, big-endian, over many tiles
  const Pipeline pipeline(
      {Byteswap{4, 4}, CastTo{DType::kFloat32, DType::kFloat16}, Byteswap{2, 2}});
  CHECK_EQ(pipeline.in_item(), 4U);
  CHECK_EQ(pipeline.out_item(), 2U);
  std::vector<std::uint32_t> source;
  std::vector<std::uint16_t> expected;
  for (std::uint32_t i = 0; i < 40'003; ++i) {
    source.push_back(i % 2 == 0 ? 0x0000803F : 0x000000C0);  // 1, -2
    expected.push_back(i % 2 == 0 ? 0x003C : 0x00C0);
  }
  check::OnEveryIsa(
      [&] { CHECK(FromBytes<std::uint16_t>(Run(pipeline, ToBytes(source))) == expected); });
}

TEST(NoStepsCopyBytes) {
  const Pipeline pipeline;
  CHECK(pipeline.identity());
  const ByteVector source = check::RandomBytes(1000, 7);
  CHECK(Run(pipeline, source) == source);
}

TEST(RefusesWhatDoesNotFit) {
  const auto refuses = [](const std::vector<Step>& steps) {
    CHECK_THROWS(kInvalidArgument, Pipeline(steps));
  };
  refuses({Byteswap{3, 3}});
  refuses({Byteswap{4, 6}});
  refuses({Byteswap{4, 0}});
  refuses({Byteswap{2, 1U << 20}});
  refuses({CastTo{DType::kInt4, DType::kInt8}});
  refuses({CastTo{DType::kComplex64, DType::kFloat32}});
  refuses({AffineDecode{DType::kInt8, DType::kFloat32, 1, 0}});
  refuses({AffineDecode{DType::kUInt8, DType::kFloat64, 1, 0}});
  refuses({AffineEncode{DType::kUInt32, 1, 0, 1}});
  refuses({AffineEncode{DType::kUInt8, 0, 0, 1}});
  refuses({AffineEncode{DType::kUInt8, 1, 1, 0}});
  refuses({AffineEncode{DType::kUInt8, kDoubleNan, 0, 1}});
  refuses({CastTo{DType::kFloat32, DType::kFloat16}, CastTo{DType::kFloat32, DType::kFloat16}});
}

TEST(MinAndMax) {
  check::OnEveryIsa([] {
    for (std::size_t n = 1; n < 200; ++n) {
      std::vector<float> values(n, 0.5F);
      values[n / 2] = -3;
      values[n - 1] = 7;
      MinMax found = FindMinMax(ToBytes(values).data(), n);
      CHECK_EQ(found.min, n > 2 ? -3.0F : n == 2 ? 0.5F : 7.0F);
      CHECK_EQ(found.max, 7.0F);
      values[n / 3] = -kNan;
      found = FindMinMax(ToBytes(values).data(), n);
      CHECK(std::isnan(found.min) && std::isnan(found.max));
    }
    CHECK_THROWS(kInvalidArgument, FindMinMax(nullptr, 0));
    const MinMax zeros = FindMinMax(ToBytes(std::vector<float>{0.0F, -0.0F, 0.0F}).data(), 3);
    CHECK(std::signbit(zeros.min) && !std::signbit(zeros.max));
  });
}

TEST(ParametersOfTheConverter) {
  // docs/formats/tfjs.md
  const AffineParameters mixed = ChooseAffine(-0.1F, 1.2F, 255);
  CHECK_EQ(mixed.scale, 0.0050980394085248315);
  CHECK_EQ(mixed.min, -0.10196078817049663);
  const AffineParameters positive = ChooseAffine(0.5F, 1, 255);
  CHECK_EQ(positive.scale, 0.00196078431372549);
  CHECK_EQ(positive.min, 0.5);
  CHECK_EQ(positive.max, 1.0);
  const AffineParameters constant = ChooseAffine(1, 1, 65535);
  CHECK_EQ(constant.scale, 1.0);
  CHECK_EQ(constant.min, 1.0);
  CHECK(std::isnan(ChooseAffine(kNan, kNan, 255).scale));
}
