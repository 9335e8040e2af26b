// What this process may use of the machine: CPUs and memory, after affinity and the limits of its
// control groups (version 2, as containers have).
#ifndef WEIGHTLIFT_BASE_RESOURCES_H_
#define WEIGHTLIFT_BASE_RESOURCES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weightlift {

// At least 1; a quota is rounded up.
int UsableCpus();

// Bytes of memory and swap that could be had if nothing else ran; the largest number where the
// system does not say.
std::uint64_t UsableMemory();

// --- for tests ---

// The text of `file` in the group of this process and in each group above it, whose limits hold
// too.
std::vector<std::string> ControlGroupTexts(const std::string& file,
                                           const std::string& hierarchy = "/sys/fs/cgroup",
                                           const std::string& membership = "/proc/self/cgroup");

// The CPUs that the text of a `cpu.max` file allows ("150000 100000": 2); nullopt: no limit, or not
// such a text.
std::optional<int> ParseCpuMax(std::string_view text);

// The bytes that the text of a `memory.max` file allows; nullopt as above.
std::optional<std::uint64_t> ParseMemoryMax(std::string_view text);

}  // namespace weightlift

#endif  // WEIGHTLIFT_BASE_RESOURCES_H_
