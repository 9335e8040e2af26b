// Positional, exact, thread-safe reads.
#ifndef WEIGHTLIFT_READER_H_
#define WEIGHTLIFT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "weightlift/stop.h"

namespace weightlift {

// Where a long read puts its bytes, piece by piece, and who is asked whether to go on. All calls
// come on the thread that reads.
class StreamSink {
 public:
  virtual ~StreamSink() = default;
  // Memory for the next bytes; not empty as long as any are to come.
  virtual std::span<std::byte> Room() = 0;
  // The first `nbytes` of Room() are in place, for good.
  virtual void Filled(std::size_t nbytes) = 0;
  // Copies the next bytes to where they belong. Who hashes them does so meanwhile: they are in a
  // cache now, and may not be in one later.
  virtual void Put(std::span<const std::byte> bytes);
  // Asked about every 50 ms, whether bytes come or not: true ends the read with kCancelled.
  virtual bool Stopped() = 0;
};

class Reader {
 public:
  virtual ~Reader() = default;
  virtual std::uint64_t size() const noexcept = 0;
  virtual const std::string& name() const noexcept = 0;

  // Fills `out` with the bytes at `offset`, all of them, or throws: kTruncated when the source ends
  // early, kStorage on failure. Loops on short reads and EINTR. Const and thread-safe.
  virtual void ReadAt(std::uint64_t offset, std::span<std::byte> out) const = 0;

  // As ReadAt; what waits for a network gives up with kCancelled when `stop` says so.
  void ReadAtUnless(std::uint64_t offset, std::span<std::byte> out,
                    const StopPredicate& stop) const;

  // Fills several buffers from consecutive bytes (a run of small tensors). Default: one by one.
  virtual void ReadScatter(std::uint64_t offset, std::span<const std::span<std::byte>> outs) const;

  // Throws kChanged when the source was modified since it was opened (size or modification time). A
  // file that was replaced by rename is still the one that was opened, whole.
  virtual void CheckUnchanged() const {}

  // Advises that a range will be read soon, or does nothing.
  virtual void WillNeed(std::uint64_t /*offset*/, std::uint64_t /*nbytes*/) const {}

  // Whether each read is a request that costs a round trip: the executor then asks for few long
  // ranges by ReadStream, from more threads than there are CPUs.
  virtual bool Streams() const noexcept { return false; }

  // Bytes a request, for a plan that reads `total`; 0: no opinion. Only asked if Streams().
  virtual std::uint64_t StreamBytes(std::uint64_t /*total*/) const noexcept { return 0; }

  // Hands all bytes of the range to `sink` in order, by one request if it can; throws as ReadAt.
  // What was handed over before an error is right. Const and thread-safe.
  virtual void ReadStream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const;
};

// Throws kTruncated, with path and range, unless [offset, offset + nbytes) is inside the source: to
// be asked before memory for the bytes is allocated.
void CheckRange(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes);

enum class ReadMode : std::uint8_t {
  kAuto,      // by page-cache residency, per range: cached bytes buffered, the rest direct
  kBuffered,  // through the page cache
  kDirect,    // O_DIRECT; falls back to buffered where the file system has none
};

// A whole file mapped read-only and shared. The mapping lives as long as the object.
// Touching it after the file was truncated raises SIGBUS; see docs/architecture.md.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::span<const std::byte> bytes() const noexcept = 0;
};

// A regular file. Refuses directories, FIFOs, sockets and devices by name (kFormat) without
// blocking on them. Identity (device, inode, size, mtime) is pinned at open.
class FileReader : public Reader {
 public:
  static std::shared_ptr<FileReader> Open(const std::string& path, ReadMode mode = ReadMode::kAuto);

  // Bytes of [offset, offset + nbytes) in the page cache, as a fraction in [0, 1]; an estimate by a
  // few pages where the kernel does not count them for us; -1 when the system cannot tell.
  virtual double Residency(std::uint64_t offset, std::uint64_t nbytes) const = 0;
  virtual std::shared_ptr<MappedFile> Map() const = 0;
  virtual bool on_network() const noexcept = 0;  // by statfs magic: never map these by default
  virtual std::uint64_t device() const noexcept = 0;
  virtual std::uint64_t inode() const noexcept = 0;
  virtual std::int64_t mtime_ns() const noexcept = 0;
};

// Borrowed memory as a reader; the caller keeps it alive.
std::shared_ptr<Reader> MakeMemoryReader(std::span<const std::byte> bytes, std::string name);

}  // namespace weightlift

#endif  // WEIGHTLIFT_READER_H_
