// Pipelines of a write plan that quantise over the range of their own source (LateRange): the range
// is found when the first bytes are wanted, so that the values are still in the caches when they
// are encoded.
#ifndef WEIGHTLIFT_PLAN_LATE_RANGES_H_
#define WEIGHTLIFT_PLAN_LATE_RANGES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "weightlift/convert.h"
#include "weightlift/plan.h"
#include "weightlift/stop.h"

namespace weightlift {

class LateRanges {
 public:
  // The plan must be valid and stay; so must what it points to.
  explicit LateRanges(const WritePlan& plan);
  ~LateRanges();
  LateRanges(const LateRanges&) = delete;
  LateRanges& operator=(const LateRanges&) = delete;

  // The pipeline of this index as it runs. Thread-safe; callers that want the same range find it
  // together. Throws Error: kUnsupported where values are NaN or infinite, kCancelled when stopped.
  const Pipeline& Get(std::uint32_t pipeline, const StopPredicate& stop);

  // The parameters of all, in the plan's order; those that no op wanted are found now.
  std::vector<AffineParameters> Chosen();

 private:
  struct Range;

  static void Settle(Range& range);
  static void Find(Range& range, const StopPredicate& stop);

  const WritePlan& plan_;
  std::vector<std::unique_ptr<Range>> ranges_;
  std::vector<std::uint32_t> range_of_;  // one a pipeline; empty: there are no late ranges
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_LATE_RANGES_H_
