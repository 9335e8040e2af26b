// Bytes that arrive in order and are read from anywhere: the first 64 MiB stay in memory, the rest
// goes to an unnamed file in $TMPDIR, of which it leaves a twentieth free: a body may have no end.
#ifndef WEIGHTLIFT_HTTP_SPOOL_H_
#define WEIGHTLIFT_HTTP_SPOOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/unique_fd.h"

namespace weightlift::http {

// One thread appends; any number read what size() covers.
class Spool {
 public:
  explicit Spool(std::uint64_t memory_bytes = 64u << 20);

  void Append(std::span<const std::byte> bytes);
  std::uint64_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  void Read(std::uint64_t offset, std::span<std::byte> out) const;
  // Whether the bytes at `offset` are these.
  bool Holds(std::uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  static constexpr std::size_t kBlock = 1u << 20;

  void OpenFile();
  // Throws kStorage (ENOSPC) unless the file may grow by `nbytes` to `end`.
  void Reserve(std::uint64_t nbytes, std::uint64_t end);

  const std::uint64_t memory_bytes_;                  // whole blocks
  std::vector<std::unique_ptr<std::byte[]>> blocks_;  // never reallocated
  UniqueFd file_;
  std::string file_name_;
  std::uint64_t reserved_ = 0;  // the file may grow to so many bytes before the room is asked again
  std::atomic<std::uint64_t> size_{0};
};

}  // namespace weightlift::http

#endif  // WEIGHTLIFT_HTTP_SPOOL_H_
