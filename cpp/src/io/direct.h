// O_DIRECT: transfers between the device and our memory, past the page cache.
//
// The kernel wants the file offset and length to be multiples of one alignment and the memory
// address of another. What does not fit goes through a per-thread bounce buffer: the blocks at the
// two ends of a range, or all of it where the addresses are out of step.
#ifndef WEIGHTLIFT_IO_DIRECT_H_
#define WEIGHTLIFT_IO_DIRECT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "io/unique_fd.h"

namespace weightlift {

// A second open of a file, with O_DIRECT. Thread-safe once made.
class DirectFile {
 public:
  // Opens the file of `fd` once more, by /proc, for `access` (O_RDONLY or O_RDWR). nullptr where
  // the file system has no O_DIRECT, or one with alignments of no use.
  static std::unique_ptr<DirectFile> Reopen(int fd, int access);

  std::size_t memory_alignment() const noexcept { return memory_alignment_; }
  std::size_t offset_alignment() const noexcept { return offset_alignment_; }
  // False once the file system has refused a transfer that kept its own rules; it then stays so.
  bool usable() const noexcept { return usable_.load(std::memory_order_relaxed); }

  // Reads a prefix of the consecutive bytes that fill `outs` and returns its length: all of it, or
  // less at the end of the file or when the file became unusable. The caller reads the rest by
  // other means. Throws Error on failure.
  std::size_t Read(std::uint64_t offset, std::span<const std::span<std::byte>> outs,
                   const std::string& path);

  // Writes a prefix of `data`, whose offset, size and address are aligned, and returns its length:
  // all of it unless the file became unusable. Throws Error on failure.
  std::size_t Write(std::uint64_t offset, std::span<const std::byte> data, const std::string& path);

 private:
  DirectFile(UniqueFd fd, std::size_t memory_alignment, std::size_t offset_alignment) noexcept;
  std::size_t ReadInPlace(std::uint64_t offset, std::span<std::byte> out, const std::string& path);
  std::size_t ReadBounced(std::uint64_t offset, std::span<const std::span<std::byte>> outs,
                          const std::string& path);
  bool InStep(std::uint64_t offset, std::span<const std::byte> out) const noexcept;

  const UniqueFd fd_;
  const std::size_t memory_alignment_;
  const std::size_t offset_alignment_;
  std::atomic<bool> usable_{true};
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_IO_DIRECT_H_
