// Atomic, durable, positional writes.
//
// Protocol of FileWriter (the target is seen whole, or not at all, after a kill or a power cut):
//   1. an unnamed file (O_TMPFILE) in the target's directory, else a named temporary one;
//   2. preallocate (fallocate) so that a full disk shows before any byte is written;
//   3. WriteAt, in parallel, in any order;
//   4. Commit: set the size, fdatasync (if durable), link or rename over the target, fsync the
//      directory (if durable).
// Abort, or destruction before Commit, leaves the target untouched and no litter.
#ifndef WEIGHTLIFT_WRITER_H_
#define WEIGHTLIFT_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "weightlift/stop.h"

namespace weightlift {

class Writer {
 public:
  virtual ~Writer() = default;
  virtual const std::string& name() const noexcept = 0;

  // Writes all bytes at `offset`; thread-safe for disjoint ranges. Any alignment is allowed; see
  // GoesDirect.
  virtual void WriteAt(std::uint64_t offset, std::span<const std::byte> data) = 0;

  // Whether bytes go out in ascending order, without gaps: a write waits for those before it.
  virtual bool Sequential() const noexcept { return false; }
  // As WriteAt; what may wait gives up with kCancelled when `stop` says so.
  virtual void WriteAtUnless(std::uint64_t offset, std::span<const std::byte> data,
                             const StopPredicate& /*stop*/) {
    WriteAt(offset, data);
  }

  // 0: writes are buffered. Else ranges whose offset, size and address are multiples of it go
  // direct.
  virtual std::size_t direct_alignment() const noexcept = 0;
  // Whether the range, but for less than direct_alignment() at each end, goes direct from where it
  // is.
  virtual bool GoesDirect(std::uint64_t offset, std::span<const std::byte> data) const noexcept {
    const std::size_t align = direct_alignment();
    return align != 0 && (reinterpret_cast<std::uintptr_t>(data.data()) - offset) % align == 0;
  }

  // Makes written bytes durable (step 4's fdatasync) without publishing them. Idempotent.
  virtual void Sync() = 0;
  virtual void Commit() = 0;  // publishes under the target's name; once
  virtual void CommitUnless(const StopPredicate& /*stop*/) { Commit(); }  // see WriteAtUnless
  virtual void Abort() noexcept = 0;
};

enum class WriteMode : std::uint8_t {
  kAuto,  // direct when durable and large (>= 1 MiB) and the file system can, else buffered
  kBuffered,
  kDirect,
};

struct FileWriterOptions {
  WriteMode mode = WriteMode::kAuto;
  bool durable = true;
};

class FileWriter : public Writer {
 public:
  // `size` is the final size in bytes. The new file has the old one's permission bits and, where
  // allowed, owner; a new name gets 0666 less the umask. A symbolic link is followed: the file it
  // names is replaced, the link stays. Also collects litter of writers that were killed (named
  // temporaries of the same target whose lock is free).
  static std::shared_ptr<FileWriter> Create(const std::string& path, std::uint64_t size,
                                            const FileWriterOptions& options = {});

  // Commits them all sooner than one after the other: their syncs run at the same time, and each
  // directory is synced once. None is published before all are durable. When it throws, some may
  // have been published; the others are aborted.
  static void CommitAll(std::span<const std::shared_ptr<FileWriter>> writers);

  // Makes `size`, no more than it was created with, the final size (of a compressed file, known
  // only when all is written). Not while writes are under way.
  virtual void Truncate(std::uint64_t size) = 0;
};

// Renames in one step, as rename(2). What `to` was gives its pages and blocks back on a thread of
// its own, as all that a commit replaces does.
void RenameOver(const std::string& from, const std::string& to);

// Removes a file's name; its pages and blocks as above.
void RemoveFile(const std::string& path);

// Takes bytes in any order and forgets them: for a pass that only hashes.
std::shared_ptr<Writer> MakeNullWriter(std::string name);

}  // namespace weightlift

#endif  // WEIGHTLIFT_WRITER_H_
