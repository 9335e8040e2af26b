#include "io/page_cache_probe.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <optional>

#include "base/checked.h"

namespace weightlift {
namespace {

constexpr std::uint64_t kSamples = 16;

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

std::optional<std::uint64_t> CountCachedPages(int fd, std::uint64_t begin, std::uint64_t nbytes) {
  CachestatRange range{begin, nbytes};
  Cachestat stat{};
  if (syscall(kCachestat, fd, &range, &stat, 0) != 0) return std::nullopt;
  return stat.nr_cache;
}

// The pages that a range touches.
struct Pages {
  Pages(std::uint64_t offset, std::uint64_t nbytes) {
    static const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    size = page;
    begin = AlignDown(offset, page);
    length = offset + nbytes - begin;
    count = (length + page - 1) / page;
  }
  std::uint64_t size;
  std::uint64_t begin;   // bytes, of the first page
  std::uint64_t length;  // bytes, to the end of the range
  std::uint64_t count;
};

// How much this thread has asked of devices so far.
long BlocksAskedFor() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_inblock;
}

// Whether the byte at `offset` can be read without asking a device; nullopt: cannot be told.
std::optional<bool> IsCached(int fd, std::uint64_t offset) {
  std::byte byte;
  const iovec part{&byte, 1};
  const long before = BlocksAskedFor();
  // RWF_NOWAIT does not wait for a missing page, but it asks for it: when the thread loses its
  // processor at that moment, the page is there before the call looks again, and the call succeeds.
  if (preadv2(fd, &part, 1, static_cast<off_t>(offset), RWF_NOWAIT) >= 0) {
    return BlocksAskedFor() == before;
  }
  if (errno == EAGAIN) return false;
  return std::nullopt;
}

}  // namespace

double PageCacheProbe::CachedFraction(std::uint64_t offset, std::uint64_t nbytes) const noexcept {
  if (nbytes == 0) return 1;
  const Pages pages(offset, nbytes);
  const std::optional<std::uint64_t> cached = CountCachedPages(fd_, pages.begin, pages.length);
  if (!cached) return SampledFraction(offset, nbytes);
  return static_cast<double>(std::min(*cached, pages.count)) / static_cast<double>(pages.count);
}

double PageCacheProbe::SampledFraction(std::uint64_t offset, std::uint64_t nbytes) const noexcept {
  if (nbytes == 0) return 1;
  std::call_once(sampler_once_, [this] {
    std::array<char, 32> link{};
    std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", fd_);
    sampler_ = UniqueFd(open(link.data(), O_RDONLY | O_CLOEXEC));
    // Else each missing page would bring its neighbours along.
    if (sampler_) posix_fadvise(sampler_.get(), 0, 0, POSIX_FADV_RANDOM);
  });
  if (!sampler_) return -1;
  const Pages pages(offset, nbytes);
  const std::uint64_t samples = std::min(kSamples, pages.count);
  std::uint64_t cached = 0;
  for (std::uint64_t i = 0; i < samples; ++i) {
    const std::uint64_t page = (2 * i + 1) * pages.count / (2 * samples);
    const std::optional<bool> answer = IsCached(sampler_.get(), pages.begin + page * pages.size);
    if (!answer) return -1;
    if (*answer) ++cached;
  }
  return static_cast<double>(cached) / static_cast<double>(samples);
}

}  // namespace weightlift
