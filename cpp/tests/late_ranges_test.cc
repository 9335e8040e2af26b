#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "check.h"
#include "plan_fakes.h"
#include "weightlift/convert.h"
#include "weightlift/error.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

using fakes::ErrorOf;
using fakes::FakeWriter;

std::vector<float> Values(std::size_t n, float low, float high) {
  std::vector<float> values(n);
  const auto random = fakes::RandomBytes(n, static_cast<std::uint32_t>(n));
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = low + (high - low) * static_cast<float>(std::to_integer<int>(random[i])) / 255.0F;
  }
  return values;
}

MemorySource SourceOf(const std::vector<float>& values) {
  return {.data = std::as_bytes(std::span(values)).data(),
          .nbytes = values.size() * sizeof(float),
          .item = sizeof(float),
          .shape = {},
          .strides = {}};
}

// One tensor after the other in files of `shard` bytes each.
WritePlan PlanOf(const std::vector<std::vector<float>>& tensors, DType stored,
                 std::uint64_t shard) {
  WritePlan plan;
  plan.tensors = tensors.size();
  std::uint64_t at = 0;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    plan.sources.push_back(SourceOf(tensors[i]));
    plan.pipelines.push_back(Pipeline({AffineEncode{stored, 1, 0, 1}}));
    plan.late_ranges.push_back({i, i});
    const std::uint64_t size = tensors[i].size() * plan.pipelines[i].out_item();
    for (std::uint64_t start = 0; start < size;) {
      const std::uint64_t n = std::min(size - start, shard - at % shard);
      plan.ops.push_back({.file = static_cast<std::uint32_t>(at / shard),
                          .source = i,
                          .offset = at % shard,
                          .nbytes = n,
                          .start = start,
                          .pipeline = i,
                          .tensor = i});
      start += n;
      at += n;
    }
  }
  return plan;
}

}  // namespace

TEST(RangesFoundOnTheWayAreThoseFoundBefore) {
  // Of less than a piece, of several, and one of a single value.
  std::vector<std::vector<float>> tensors = {Values(1000, -1, 2), Values(700'001, -3, 0.5F),
                                             Values(1, 7, 7), Values(300'000, 4, 9)};
  tensors[1].back() = -4;  // the extremes may be anywhere
  constexpr std::uint64_t kShard = 250'003;
  for (const DType stored : {DType::kUInt8, DType::kUInt16}) {
    const WritePlan plan = PlanOf(tensors, stored, kShard);
    std::vector<std::byte> expected;
    std::vector<AffineParameters> parameters;
    for (const std::vector<float>& values : tensors) {
      const MemorySource source = SourceOf(values);
      const MinMax range = FindMinMax(source.data, values.size());
      parameters.push_back(
          ChooseAffine(range.min, range.max, stored == DType::kUInt8 ? 255 : 65535));
      const auto& [scale, min, max] = parameters.back();
      const Pipeline pipeline({AffineEncode{stored, scale, min, max}});
      const std::size_t at = expected.size();
      expected.resize(at + values.size() * pipeline.out_item());
      pipeline.Run(source.data, expected.data() + at, values.size());
    }
    for (const int threads : {1, 2, 4}) {
      std::vector<std::shared_ptr<FakeWriter>> files;
      std::vector<std::shared_ptr<Writer>> writers;
      for (std::uint64_t at = 0; at < expected.size(); at += kShard) {
        files.push_back(
            std::make_shared<FakeWriter>(std::min<std::uint64_t>(kShard, expected.size() - at)));
        writers.push_back(files.back());
      }
      const WriteReport report =
          ExecuteWrite(plan, writers, {}, {.threads = threads, .task_bytes = 70'000});
      std::vector<std::byte> written;
      for (const auto& file : files) {
        written.insert(written.end(), file->bytes.begin(), file->bytes.end());
      }
      CHECK(written == expected);
      CHECK_EQ(report.chosen.size(), tensors.size());
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        CHECK_EQ(report.chosen[i].scale, parameters[i].scale);
        CHECK_EQ(report.chosen[i].min, parameters[i].min);
        CHECK_EQ(report.chosen[i].max, parameters[i].max);
      }
    }
  }
}

TEST(TheFirstTensorWithoutAFiniteRangeIsNamed) {
  std::vector<std::vector<float>> tensors(4, Values(300'000, -1, 2));
  tensors[1][299'999] = std::numeric_limits<float>::infinity();
  tensors[3][5] = std::numeric_limits<float>::quiet_NaN();
  const WritePlan plan = PlanOf(tensors, DType::kUInt8, 1u << 30);
  for (const int threads : {1, 2}) {
    const std::vector<std::shared_ptr<Writer>> writers = {std::make_shared<FakeWriter>(1'200'000)};
    const Error error = ErrorOf(
        [&] { ExecuteWrite(plan, writers, {}, {.threads = threads, .task_bytes = 50'000}); });
    CHECK(error.code() == ErrorCode::kUnsupported);
    CHECK_EQ(error.place().tensor.value(), 1U);
    CHECK(std::string(error.what()).find("the values run from -1 to inf: NaN and infinities") !=
          std::string::npos);
  }
}

TEST(LateRangesThatDoNotFitAreRefused) {
  const std::vector<std::vector<float>> tensors = {Values(8, 0, 1), Values(8, 0, 1)};
  const std::vector<std::shared_ptr<Writer>> writers = {std::make_shared<FakeWriter>(16)};
  const WritePlan good = PlanOf(tensors, DType::kUInt8, 1024);
  const auto refused = [&](const WritePlan& plan) {
    return ErrorOf([&] { ExecuteWrite(plan, writers, {}); }).code() == ErrorCode::kInvalidArgument;
  };
  ExecuteWrite(good, writers, {});
  for (const LateRange& late :
       {LateRange{9, 0}, LateRange{0, 9}, LateRange{0, 1}, LateRange{1, 1}}) {
    WritePlan plan = good;  // no such pipeline, no such source, another source, twice
    plan.late_ranges[0] = late;
    CHECK(refused(plan));
  }
  WritePlan plan = good;
  plan.pipelines[0] = Pipeline({CastTo{DType::kUInt8, DType::kUInt8, false}});
  CHECK(refused(plan));
  plan = good;
  std::get<MemorySource>(plan.sources[0]).nbytes = 0;
  CHECK(refused(plan));
  plan = good;
  std::get<MemorySource>(plan.sources[0]).shape = {8};
  std::get<MemorySource>(plan.sources[0]).strides = {4};
  CHECK(refused(plan));
}

}  // namespace weightlift
