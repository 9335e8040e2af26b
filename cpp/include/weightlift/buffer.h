// Memory that weights are loaded into.
//
// A Buffer owns anonymous memory, page-aligned, on huge pages where the machine allows it
// (madvise): page faults, not bytes, bound a load into fresh memory. A BufferPool keeps released
// memory for the next load, which nearly doubles its speed; it is bounded and thread-safe.
#ifndef WEIGHTLIFT_BUFFER_H_
#define WEIGHTLIFT_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace weightlift {

class BufferPool;

class Buffer {
 public:
  // Page-aligned, 2 MiB aligned from 2 MiB up; zero-filled where it does not come from a pool. Zero
  // bytes are allowed. Throws Error(kOutOfMemory).
  static std::shared_ptr<Buffer> Allocate(std::uint64_t nbytes,
                                          std::shared_ptr<BufferPool> pool = nullptr);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::span<std::byte> bytes() noexcept { return {data_, size_}; }
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  Buffer() = default;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;  // bytes mapped, >= size_
  std::shared_ptr<BufferPool> pool_;
};

// Idle memory of at least the size asked for, and at most twice that, is used again: the best fit.
// It is NOT zeroed. Thread-safe; a pool lives until its last buffer is gone.
class BufferPool {
 public:
  explicit BufferPool(std::uint64_t max_bytes);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  std::uint64_t held_bytes() const noexcept;  // idle bytes kept
  void Clear() noexcept;                      // gives idle memory back to the system

 private:
  friend class Buffer;
  std::pair<std::byte*, std::size_t> Take(std::size_t needed) noexcept;
  bool Give(std::byte* data, std::size_t size) noexcept;  // false: full, the caller unmaps it

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_BUFFER_H_
