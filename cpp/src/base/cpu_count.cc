#include "base/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>
#include <thread>

namespace weightlift {
namespace {

int AffinityCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on machines with more CPUs than the set holds: then the pool's cap is what matters.
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The path of this process in the version 2 hierarchy; empty where there is none.
std::string ControlGroup() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return {};
}

}  // namespace

std::optional<int> ParseCpuMax(std::string_view text) {
  long quota = 0;
  long period = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, quota);
  if (first.ec != std::errc() || first.ptr == end) return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, period);
  if (second.ec != std::errc() || quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<int>(std::min<long>((quota - 1) / period + 1, 1 << 20));
}

int UsableCpus() {
  int cpus = AffinityCpus();
  // A quota on any ancestor holds for this group too.
  for (std::string group = ControlGroup(); group.starts_with('/');) {
    std::ifstream file("/sys/fs/cgroup" + group + "/cpu.max");
    std::string text;
    if (std::getline(file, text)) {
      if (const auto allowed = ParseCpuMax(text)) cpus = std::min(cpus, *allowed);
    }
    if (group == "/") break;
    group.resize(std::max<std::size_t>(group.rfind('/'), 1));
  }
  return std::max(cpus, 1);
}

}  // namespace weightlift
