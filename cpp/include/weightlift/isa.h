// Which instruction set the kernels (checksums, conversions) use.
//
// The best one that both this build and this processor have is chosen at first use; the environment
// variable WEIGHTLIFT_FORCE_ISA overrides the choice. Every choice gives the same results, bit for
// bit.
#ifndef WEIGHTLIFT_ISA_H_
#define WEIGHTLIFT_ISA_H_

#include <string_view>
#include <vector>

namespace weightlift {

// "portable", "sse42", "avx2", "avx512" or "neon". Throws Error(kInvalidArgument) when
// WEIGHTLIFT_FORCE_ISA names one that is not available; so does every kernel until SetIsa mends it.
std::string_view ActiveIsa();

// Those that can be chosen here, from the plainest to the best.
std::vector<std::string_view> AvailableIsas();

// Chooses for the whole process; for tests and benchmarks. Thread-safe; a kernel that is running
// keeps the set it began with. Throws Error(kInvalidArgument) when `name` is not available.
void SetIsa(std::string_view name);

}  // namespace weightlift

#endif  // WEIGHTLIFT_ISA_H_
