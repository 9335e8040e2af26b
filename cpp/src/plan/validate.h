// Checks a plan before anything runs: indices, bounds, overflow, whole elements.
#ifndef WEIGHTLIFT_PLAN_VALIDATE_H_
#define WEIGHTLIFT_PLAN_VALIDATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "weightlift/plan.h"

namespace weightlift {

// Return the bytes that the plan moves. Throw Error(kTruncated) for the first op that reads past
// the end of its source, Error(kInvalidArgument) for anything that the planner has got wrong.
std::uint64_t ValidateRead(const ReadPlan& plan,
                           std::span<const std::shared_ptr<const Reader>> readers,
                           std::span<const std::span<std::byte>> buffers);
std::uint64_t ValidateWrite(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                            std::span<const std::shared_ptr<const Reader>> readers);

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_VALIDATE_H_
