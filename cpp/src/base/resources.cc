#include "base/resources.h"

#include <sched.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <thread>

namespace weightlift {
namespace {

int AffinityCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  // There are more CPUs than the set has room for.
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The group's path in the hierarchy of version 2; empty where there is none.
std::string ControlGroup(const std::string& membership) {
  std::ifstream file(membership);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("0::/")) return line.substr(3);
  }
  return {};
}

}  // namespace

std::vector<std::string> ControlGroupTexts(const std::string& file, const std::string& hierarchy,
                                           const std::string& membership) {
  std::vector<std::string> texts;
  std::string group = ControlGroup(membership);
  while (!group.empty()) {
    std::ifstream in(hierarchy + group + "/" + file);
    std::string text;
    if (std::getline(in, text)) texts.push_back(text);
    if (group == "/") break;
    group.resize(std::max<std::size_t>(group.rfind('/'), 1));
  }
  return texts;
}

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

std::optional<std::uint64_t> ParseMemoryMax(std::string_view text) {
  std::uint64_t bytes = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (result.ec != std::errc()) return std::nullopt;
  return bytes;
}

int UsableCpus() {
  int cpus = AffinityCpus();
  for (const std::string& text : ControlGroupTexts("cpu.max")) {
    cpus = std::min(cpus, ParseCpuMax(text).value_or(cpus));
  }
  return std::max(cpus, 1);
}

std::uint64_t UsableMemory() {
  std::uint64_t memory = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t swap = 0;
  struct sysinfo info = {};
  if (sysinfo(&info) == 0) {
    memory = std::uint64_t{info.totalram} * info.mem_unit;
    swap = std::uint64_t{info.totalswap} * info.mem_unit;
  }
  for (const std::string& text : ControlGroupTexts("memory.max")) {
    memory = std::min(memory, ParseMemoryMax(text).value_or(memory));
  }
  return memory > std::numeric_limits<std::uint64_t>::max() - swap ? memory : memory + swap;
}

}  // namespace weightlift
