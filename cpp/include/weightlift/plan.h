// Plans: flat columns that say which bytes go where. Planning is pure; execution is dumb.
//
// The executor runs a plan on the process-wide thread pool, in these lanes:
//   direct   no pipeline: from the reader straight into the destination memory;
//   fused    a pipeline: tiles through a small per-thread scratch, converted while in cache;
//   discard  no destination: bytes are only hashed (verify).
// Checksums are computed over the STORED bytes while they are in cache (sub-blocks of 256 KiB), in
// the same pass, from pieces in parallel, combined in plan order.
// All workers are joined before a call returns; then the first error in plan order is thrown.
#ifndef WEIGHTLIFT_PLAN_H_
#define WEIGHTLIFT_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "weightlift/convert.h"
#include "weightlift/reader.h"
#include "weightlift/writer.h"

namespace weightlift {

inline constexpr std::uint32_t kNone = 0xFFFFFFFF;

// Called on the thread that called the executor, at least every 50 ms and once at the end; may throw
// to cancel (the executor stops its workers, joins them and rethrows).
class Monitor {
 public:
  virtual ~Monitor() = default;
  virtual void Tick(std::uint64_t bytes_done, std::uint64_t bytes_total) = 0;
};

struct ExecuteOptions {
  int threads = 0;  // 0: the pool's size (CPUs this process may use, at least 2, at most 16)
  Monitor* monitor = nullptr;
};

enum class ChecksumKind : std::uint8_t { kNone, kCrc32c, kCrc32 };

// One tensor's checksum over its stored bytes, pieces concatenated in op order.
struct ChecksumSpec {
  ChecksumKind kind = ChecksumKind::kNone;
  bool verify = false;         // compare with `expected`, else only compute
  std::uint32_t initial = 0;   // the checksum of what comes before (a zip member's npy header)
  std::uint32_t expected = 0;
};

struct ReadOp {
  std::uint32_t source;    // index into the readers
  std::uint32_t tensor;    // index into the checksum specs; also names it in errors
  std::uint64_t offset;    // first stored byte in the source
  std::uint64_t nbytes;    // stored bytes
  std::uint32_t buffer;    // index into the destination buffers; kNone: discard
  std::uint32_t pipeline;  // index into the pipelines; kNone: bytes as they are
  std::uint64_t dest;      // first byte in the destination buffer
};

struct ReadPlan {
  std::vector<ReadOp> ops;
  std::vector<Pipeline> pipelines;
  std::vector<ChecksumSpec> checksums;  // one a tensor, or empty
};

// A run of ops that are read by one call: consecutive in the file, with small gaps at most.
struct ReadTask {
  std::size_t first, last;  // op range, end exclusive, in the order of the sorted plan
  std::uint64_t begin, end; // byte range; a part of one op when a large op is split
};
struct CoalesceOptions {
  std::uint64_t task_bytes = 8u << 20;  // split and merge to about this
  std::uint64_t max_gap = 0;            // bytes worth reading and throwing away
};
// Pure: how sorted ops become tasks.
std::vector<ReadTask> Coalesce(std::span<const ReadOp> sorted_ops, const CoalesceOptions& options);

// Returns each tensor's computed checksum (0 where kind is kNone).
// Throws Error(kChecksum) with tensor, path and byte range; kTruncated; kStorage; what Monitor throws.
std::vector<std::uint32_t> ExecuteRead(const ReadPlan& plan,
                                       std::span<const std::shared_ptr<const Reader>> readers,
                                       std::span<const std::span<std::byte>> buffers,
                                       const ExecuteOptions& options = {});

// Where an op's bytes come from.
struct MemorySource {  // an array; strides in bytes, empty: C-contiguous
  const std::byte* data = nullptr;
  std::uint64_t nbytes = 0;  // item * product(shape)
  std::uint32_t item = 1;
  std::vector<std::uint64_t> shape;
  std::vector<std::int64_t> strides;
};
struct ExtentSource {  // bytes of another file: convert streams without holding a tensor
  std::uint32_t reader = 0;
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;
  std::uint32_t check = kNone;  // index into WritePlan::source_checksums, verified on the way
};
using WriteSource = std::variant<MemorySource, ExtentSource>;

struct WriteOp {
  std::uint32_t file;      // index into the writers
  std::uint32_t source;    // index into the sources; kNone: zeros
  std::uint64_t offset;    // first byte in the file
  std::uint64_t nbytes;    // stored bytes written
  std::uint64_t element;   // first element of the source (C order) that this op takes
  std::uint32_t pipeline;  // kNone: bytes as they are
  std::uint32_t tensor;    // checksum slot; kNone: not hashed
};

struct WritePlan {
  std::vector<WriteOp> ops;  // sorted by (file, offset), not overlapping; gaps are zeros
  std::vector<WriteSource> sources;
  std::vector<Pipeline> pipelines;
  std::size_t tensors = 0;
  bool crc32c = true;  // compute CRC-32C of each tensor's stored bytes
  bool crc32 = false;  // and CRC-32 (zip)
  std::vector<ChecksumSpec> source_checksums;
};

struct WriteReport {
  std::vector<std::uint32_t> crc32c;  // one a tensor
  std::vector<std::uint32_t> crc32;
};

// Fills the files; does not Sync, Commit or Abort them. Work is cut at block boundaries (8 MiB,
// aligned in the file), gathered into aligned bounce buffers with the checksum riding along, and
// written by the pool.
WriteReport ExecuteWrite(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                         std::span<const std::shared_ptr<const Reader>> readers,
                         const ExecuteOptions& options = {});

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_H_
