#include "plan/late_ranges.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <exception>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "weightlift/error.h"

namespace weightlift {
namespace {

// What one worker looks at before others may go on with the next: short enough to share a tensor
// out evenly, and to stop soon.
constexpr std::uint64_t kPieceBytes = 1u << 20;
constexpr std::uint64_t kPieceValues = kPieceBytes / sizeof(float);

std::string Text(float value) {
  std::array<char, 32> digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), end};
}

}  // namespace

struct LateRanges::Range {
  Range(const std::byte* data, std::uint64_t count, DType type)
      : values(data),
        n(count),
        stored(type),
        pieces(static_cast<std::size_t>((count + kPieceValues - 1) / kPieceValues)) {}

  const std::byte* const values;
  const std::uint64_t n;
  const DType stored;
  std::vector<MinMax> pieces;
  std::atomic<std::size_t> next{0};  // the first piece that nobody has taken
  std::atomic<std::size_t> done{0};  // pieces found
  std::atomic<bool> ready{false};    // what follows is set
  MinMax range{};
  AffineParameters chosen{};
  Pipeline pipeline;           // the identity where the range is not finite
  std::exception_ptr failure;  // to make the pipeline
};

LateRanges::LateRanges(const WritePlan& plan) : plan_(plan) {
  if (plan.late_ranges.empty()) return;
  range_of_.assign(plan.pipelines.size(), kNoIndex);
  ranges_.reserve(plan.late_ranges.size());
  for (const LateRange& late : plan.late_ranges) {
    const auto& source = std::get<MemorySource>(plan.sources[late.source]);
    const bool is_byte = plan.pipelines[late.pipeline].out_item() == 1;
    range_of_[late.pipeline] = static_cast<std::uint32_t>(ranges_.size());
    ranges_.push_back(std::make_unique<Range>(source.data, source.nbytes / sizeof(float),
                                              is_byte ? DType::kUInt8 : DType::kUInt16));
  }
}

LateRanges::~LateRanges() = default;

const Pipeline& LateRanges::Get(std::uint32_t pipeline, const StopPredicate& stop) {
  if (range_of_.empty() || range_of_[pipeline] == kNoIndex) return plan_.pipelines[pipeline];
  Range& range = *ranges_[range_of_[pipeline]];
  if (!range.ready.load(std::memory_order_acquire)) Find(range, stop);
  if (range.failure) std::rethrow_exception(range.failure);
  if (!range.pipeline.identity()) return range.pipeline;
  throw Error(ErrorCode::kUnsupported,
              "the values run from " + Text(range.range.min) + " to " + Text(range.range.max) +
                  ": NaN and infinities cannot be quantised to " +
                  std::string(Info(range.stored).name) + "; float16 has them");
}

// Of the range of all pieces.
void LateRanges::Settle(Range& range) {
  static_assert(sizeof(MinMax) == 2 * sizeof(float));
  const auto ends = std::as_bytes(std::span(range.pieces));
  range.range = FindMinMax(ends.data(), 2 * range.pieces.size());  // the same rule once more
  if (!std::isfinite(range.range.min) || !std::isfinite(range.range.max)) return;
  const std::uint32_t levels = range.stored == DType::kUInt8 ? 0xFF : 0xFFFF;
  range.chosen = ChooseAffine(range.range.min, range.range.max, levels);
  const auto& [scale, min, max] = range.chosen;
  range.pipeline = Pipeline({AffineEncode{range.stored, scale, min, max}});
}

// Takes pieces until there are none, then waits for those that others have taken. Whoever has found
// the last one settles the pipeline. One who is stopped leaves the rest to the others.
void LateRanges::Find(Range& range, const StopPredicate& stop) {
  const std::size_t count = range.pieces.size();
  for (;;) {
    if (stop && stop()) throw Error(ErrorCode::kCancelled, "stopped");
    const std::size_t piece = range.next.fetch_add(1, std::memory_order_relaxed);
    if (piece >= count) break;
    const std::uint64_t begin = piece * kPieceValues;
    range.pieces[piece] =
        FindMinMax(range.values + begin * sizeof(float), std::min(kPieceValues, range.n - begin));
    if (range.done.fetch_add(1, std::memory_order_acq_rel) + 1 < count) continue;
    try {
      Settle(range);
    } catch (...) {
      range.failure = std::current_exception();
    }
    range.ready.store(true, std::memory_order_release);
    range.ready.notify_all();
  }
  range.ready.wait(false, std::memory_order_acquire);
}

std::vector<AffineParameters> LateRanges::Chosen() {
  std::vector<AffineParameters> chosen;
  chosen.reserve(ranges_.size());
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    Get(plan_.late_ranges[i].pipeline, {});
    chosen.push_back(ranges_[i]->chosen);
  }
  return chosen;
}

}  // namespace weightlift
