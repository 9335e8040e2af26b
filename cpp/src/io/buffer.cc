#include "weightlift/buffer.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "base/checked.h"
#include "base/resources.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// One lock for all pools, held for a few instructions, so that fork can be made to wait for it: a
// child must not inherit a lock that nobody will release.
std::mutex g_pools_mutex;
[[maybe_unused]] const int g_at_fork = pthread_atfork(
    [] { g_pools_mutex.lock(); }, [] { g_pools_mutex.unlock(); }, [] { g_pools_mutex.unlock(); });

Error OutOfMemory(std::uint64_t nbytes, int sys_errno) {
  return Error(ErrorCode::kOutOfMemory, "cannot allocate " + std::to_string(nbytes) + " bytes", {},
               sys_errno);
}

// What can never fit is refused here: with overcommit the kernel would promise it, then kill.
// Asking is not free, so small sizes are not asked about, and the limits are read once.
bool ExceedsMachine(std::uint64_t nbytes) {
  constexpr std::uint64_t kSmall = 64 << 20;
  if (nbytes <= kSmall) return false;
  static const std::uint64_t usable = UsableMemory();
  return nbytes > usable;
}

std::size_t PageSize() {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

// Bytes to map for a buffer of nbytes. Whole huge pages where that wastes little, so that the tail
// gets one too.
std::optional<std::size_t> MappedSize(std::uint64_t nbytes) {
  if (nbytes > std::numeric_limits<std::size_t>::max() - kHugePage) return std::nullopt;
  const auto size = static_cast<std::size_t>(nbytes);
  return CheckedAlignUp(size, size >= 16 * kHugePage ? kHugePage : PageSize());
}

std::byte* MapAnonymous(std::size_t size) {
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

// nullptr: errno says why.
std::byte* MapAligned(std::size_t size) {
  if (size < kHugePage) return MapAnonymous(size);
  // Map more, then give back the ends, so that what stays starts on a huge page.
  std::byte* const start = MapAnonymous(size + kHugePage);
  if (start == nullptr) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::size_t before = (kHugePage - address % kHugePage) % kHugePage;
  if (before != 0) munmap(start, before);
  std::byte* const data = start + before;
  munmap(data + size, kHugePage - before);
  madvise(data, size, MADV_HUGEPAGE);  // a machine without huge pages says no, and that is fine
  return data;
}

}  // namespace

struct BufferPool::Impl {
  explicit Impl(std::uint64_t limit) : max_bytes(limit) {}

  const std::uint64_t max_bytes;
  std::uint64_t held = 0;
  std::multimap<std::size_t, std::byte*> idle;  // by mapped size
};

BufferPool::BufferPool(std::uint64_t max_bytes) : impl_(std::make_unique<Impl>(max_bytes)) {}

BufferPool::~BufferPool() { Clear(); }

std::uint64_t BufferPool::held_bytes() const noexcept {
  const std::lock_guard lock(g_pools_mutex);
  return impl_->held;
}

void BufferPool::Clear() noexcept {
  std::multimap<std::size_t, std::byte*> idle;
  {
    const std::lock_guard lock(g_pools_mutex);
    idle.swap(impl_->idle);
    impl_->held = 0;
  }
  for (const auto& [size, data] : idle) munmap(data, size);
}

// The smallest idle memory of at least `needed` bytes and at most twice that; {nullptr, 0}: none.
std::pair<std::byte*, std::size_t> BufferPool::Take(std::size_t needed) noexcept {
  const std::lock_guard lock(g_pools_mutex);
  const auto it = impl_->idle.lower_bound(needed);
  if (it == impl_->idle.end() || it->first / 2 > needed) return {nullptr, 0};
  const auto [size, data] = *it;
  impl_->idle.erase(it);
  impl_->held -= size;
  return {data, size};
}

bool BufferPool::Give(std::byte* data, std::size_t size) noexcept {
  const std::lock_guard lock(g_pools_mutex);
  if (size > impl_->max_bytes || impl_->held > impl_->max_bytes - size) return false;
  try {
    impl_->idle.emplace(size, data);
  } catch (const std::bad_alloc&) {
    return false;
  }
  impl_->held += size;
  return true;
}

std::shared_ptr<Buffer> Buffer::Allocate(std::uint64_t nbytes, std::shared_ptr<BufferPool> pool) {
  struct Constructible : Buffer {};
  std::shared_ptr<Buffer> buffer = std::make_shared<Constructible>();
  buffer->pool_ = std::move(pool);
  if (nbytes == 0) return buffer;

  const std::optional<std::size_t> mapped = MappedSize(nbytes);
  if (!mapped || ExceedsMachine(nbytes)) throw OutOfMemory(nbytes, ENOMEM);
  if (buffer->pool_) std::tie(buffer->data_, buffer->mapped_) = buffer->pool_->Take(*mapped);
  if (buffer->data_ == nullptr) {
    buffer->data_ = MapAligned(*mapped);
    if (buffer->data_ == nullptr && buffer->pool_) {
      buffer->pool_->Clear();  // idle memory may be what is missing
      buffer->data_ = MapAligned(*mapped);
    }
    if (buffer->data_ == nullptr) throw OutOfMemory(nbytes, errno);
    buffer->mapped_ = *mapped;
  }
  buffer->size_ = static_cast<std::size_t>(nbytes);
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (pool_ && pool_->Give(data_, mapped_)) return;
  munmap(data_, mapped_);
}

}  // namespace weightlift
