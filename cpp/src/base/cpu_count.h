// How many CPUs this process may use.
#ifndef WEIGHTLIFT_BASE_CPU_COUNT_H_
#define WEIGHTLIFT_BASE_CPU_COUNT_H_

#include <optional>
#include <string_view>

namespace weightlift {

// By the CPU affinity of the calling thread and the control group's quota (version 2), rounded up;
// at least 1.
int UsableCpus();

// The CPUs that the text of a `cpu.max` file allows ("150000 100000": 2); nullopt: no limit, or not
// such a text.
std::optional<int> ParseCpuMax(std::string_view text);

}  // namespace weightlift

#endif  // WEIGHTLIFT_BASE_CPU_COUNT_H_
