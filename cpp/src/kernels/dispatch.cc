#include "kernels/dispatch.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "kernels/install.h"
#include "weightlift/error.h"
#include "weightlift/isa.h"

namespace weightlift {
namespace kernels {
namespace {

constexpr const char* kForceVariable = "WEIGHTLIFT_FORCE_ISA";

struct IsaEntry {
  std::string_view name;
  KernelTable table;
};

// The tables of this processor, from the plainest to the best. Each one starts as a copy of the
// previous one: an instruction set only overwrites what it does better.
std::vector<IsaEntry> BuildTables() {
  std::vector<IsaEntry> entries;
  IsaEntry next{"portable", {}};
  InstallPortable(next.table);
  InstallPortableChecksums(next.table);
  entries.push_back(next);
#if defined(WEIGHTLIFT_HAVE_X86_KERNELS)
  const CpuFeatures& cpu = Cpu();
  if (cpu.sse42) {
    next.name = "sse42";
    InstallSse42(next.table);
    if (cpu.pclmul) InstallPclmul(next.table);
    entries.push_back(next);
  }
  if (cpu.sse42 && cpu.avx2) {
    next.name = "avx2";
    InstallAvx2(next.table);
    entries.push_back(next);
  }
  if (cpu.sse42 && cpu.avx512) {
    next.name = "avx512";
    InstallAvx512(next.table);
    if (cpu.vpclmul) InstallVpclmul(next.table);
    entries.push_back(next);
  }
#elif defined(WEIGHTLIFT_HAVE_ARM_KERNELS)
  next.name = "neon";
  InstallNeon(next.table);
  if (Cpu().arm_crc32) InstallArmCrc(next.table);
  entries.push_back(next);
#endif
  return entries;
}

const std::vector<IsaEntry>& Tables() {
  static const std::vector<IsaEntry> tables = BuildTables();
  return tables;
}

const IsaEntry& Find(std::string_view name, std::string_view asked_by) {
  std::string available;
  for (const IsaEntry& entry : Tables()) {
    if (entry.name == name) return entry;
    if (!available.empty()) available += ", ";
    available += entry.name;
  }
  throw Error(ErrorCode::kInvalidArgument, std::string(asked_by) + ": instruction set \"" +
                                               std::string(name) +
                                               "\" is not available here; available: " + available);
}

std::atomic<const IsaEntry*> g_active{nullptr};

const IsaEntry& Active() {
  const IsaEntry* active = g_active.load(std::memory_order_acquire);
  if (active != nullptr) return *active;
  const char* forced = std::getenv(kForceVariable);
  const bool is_forced = forced != nullptr && *forced != '\0';
  const IsaEntry& choice = is_forced ? Find(forced, kForceVariable) : Tables().back();
  // Where SetIsa came first, its choice stands.
  return g_active.compare_exchange_strong(active, &choice, std::memory_order_acq_rel) ? choice
                                                                                      : *active;
}

}  // namespace

const KernelTable& Kernels() { return Active().table; }

const KernelTable& PortableKernels() { return Tables().front().table; }

}  // namespace kernels

std::string_view ActiveIsa() { return kernels::Active().name; }

std::vector<std::string_view> AvailableIsas() {
  std::vector<std::string_view> names;
  for (const auto& entry : kernels::Tables()) names.push_back(entry.name);
  return names;
}

void SetIsa(std::string_view name) {
  kernels::g_active.store(&kernels::Find(name, "SetIsa"), std::memory_order_release);
}

}  // namespace weightlift
