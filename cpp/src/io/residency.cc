#include "io/residency.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>

#include "base/checked.h"

namespace weightlift {
namespace {

// cachestat(2) and its structures, which glibc does not have yet; the number is the same on every
// architecture.
constexpr long kCachestat = 451;
struct CachestatRange {
  std::uint64_t off;
  std::uint64_t len;
};
struct Cachestat {
  std::uint64_t nr_cache;
  std::uint64_t nr_dirty;
  std::uint64_t nr_writeback;
  std::uint64_t nr_evicted;
  std::uint64_t nr_recently_evicted;
};

std::optional<std::uint64_t> CountByCachestat(int fd, std::uint64_t begin, std::uint64_t nbytes) {
  CachestatRange range{begin, nbytes};
  Cachestat stat{};
  if (syscall(kCachestat, fd, &range, &stat, 0) != 0) return std::nullopt;
  return stat.nr_cache;
}

std::optional<std::uint64_t> CountByMincore(int fd, std::uint64_t begin, std::uint64_t nbytes,
                                            std::uint64_t page) {
  constexpr std::size_t kWindowPages = 4096;
  std::array<unsigned char, kWindowPages> flags;
  std::uint64_t cached = 0;
  while (nbytes != 0) {
    const auto length = static_cast<std::size_t>(std::min(nbytes, kWindowPages * page));
    void* const at = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(begin));
    if (at == MAP_FAILED) return std::nullopt;
    const bool known = mincore(at, length, flags.data()) == 0;
    munmap(at, length);
    if (!known) return std::nullopt;
    const auto pages = static_cast<std::ptrdiff_t>((length + page - 1) / page);
    cached += static_cast<std::uint64_t>(
        std::count_if(flags.begin(), flags.begin() + pages, [](unsigned char f) { return f & 1; }));
    begin += length;
    nbytes -= length;
  }
  return cached;
}

}  // namespace

double CachedFraction(int fd, std::uint64_t offset, std::uint64_t nbytes) noexcept {
  if (nbytes == 0) return 1;
  static const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = AlignDown(offset, page);
  const std::uint64_t length = offset + nbytes - begin;
  const std::uint64_t pages = (length + page - 1) / page;
  std::optional<std::uint64_t> cached = CountByCachestat(fd, begin, length);
  if (!cached) cached = CountByMincore(fd, begin, length, page);
  if (!cached) return -1;
  return static_cast<double>(std::min(*cached, pages)) / static_cast<double>(pages);
}

}  // namespace weightlift
