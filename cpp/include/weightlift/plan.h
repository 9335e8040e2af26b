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
#include <variant>
#include <vector>

#include "weightlift/checksum.h"
#include "weightlift/convert.h"
#include "weightlift/reader.h"
#include "weightlift/writer.h"

namespace weightlift {

inline constexpr std::uint32_t kNoIndex = 0xFFFFFFFF;

// Called on the thread that called the executor, at least every 50 ms and once at the end; may
// throw to cancel (the executor stops its workers, joins them and rethrows).
class Monitor {
 public:
  virtual ~Monitor() = default;
  virtual void Tick(std::uint64_t bytes_done, std::uint64_t bytes_total) = 0;
};

struct ExecuteOptions {
  int threads = 0;  // 0: as many as pay, by the pool's size and whether they will wait for a disk
  Monitor* monitor = nullptr;
  // How finely work is cut, for tests and tuning; 0: what was measured best (up to 8 MiB).
  std::uint64_t task_bytes = 0;
};

enum class ChecksumKind : std::uint8_t { kNone, kCrc32c, kCrc32 };

// One tensor's checksum over its stored bytes, its ops concatenated in plan order.
struct ChecksumSpec {
  ChecksumKind kind = ChecksumKind::kNone;
  bool verify = false;        // compare with `expected`, else only compute
  std::uint32_t initial = 0;  // the checksum of what comes before (a zip member's npy header)
  std::uint32_t expected = 0;
};

struct ReadOp {
  std::uint32_t source;    // index into the readers
  std::uint32_t tensor;    // index into the checksum specs, and names in errors; kNoIndex: none
  std::uint64_t offset;    // first stored byte in the source
  std::uint64_t nbytes;    // stored bytes; with a pipeline, whole elements
  std::uint32_t buffer;    // index into the destination buffers; kNoIndex: discard
  std::uint32_t pipeline;  // index into the pipelines; kNoIndex: bytes as they are
  std::uint64_t dest;      // first byte in the destination buffer

  std::uint64_t end() const noexcept { return offset + nbytes; }
};

// Ops may come in any order and may read the same bytes; their destinations must not overlap.
struct ReadPlan {
  std::vector<ReadOp> ops;
  std::vector<Pipeline> pipelines;
  std::vector<ChecksumSpec> checksums;  // one a tensor, or empty
};

// One task: a run of ops that are consecutive in the file, with small gaps at most. The first and
// the last op may be in it only in part, when they are large.
struct ReadTask {
  std::size_t first, last;   // op range, end exclusive, in the order of the sorted plan
  std::uint64_t begin, end;  // byte range
  bool operator==(const ReadTask&) const = default;
};
struct CoalesceOptions {
  std::uint64_t task_bytes = 8u << 20;  // split and merge to half of it to twice, in a long run
  std::uint64_t max_gap = 0;            // bytes worth reading and throwing away
};
// Pure: how ops, sorted by (source, offset) and without overflow, become tasks. Cuts are at
// multiples of task_bytes in the file. Ops that overlap are in different tasks; those of no bytes
// in none, or in between.
std::vector<ReadTask> Coalesce(std::span<const ReadOp> sorted_ops, const CoalesceOptions& options);

// Returns each tensor's computed checksum (0 where kind is kNone).
// Throws Error: kInvalidArgument for an impossible plan and kTruncated for one beyond the end of a
// source, before anything is read; kChanged when a source was modified meanwhile, whatever else
// went wrong; else the first error in plan order: kChecksum with tensor, path and byte range,
// kStorage, kTruncated ...; before all of them, what Monitor throws.
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
  // Index into WritePlan::source_checksums, verified on the way. A checksum covers all extents that
  // name it, in the order of the sources; the plan must write all of their bytes, once.
  std::uint32_t check = kNoIndex;
};
using WriteSource = std::variant<MemorySource, ExtentSource>;

// Writes bytes [start, start + nbytes) of what the source becomes: its elements in C order, through
// the pipeline. Shards may cut a tensor anywhere, in the middle of an element too.
struct WriteOp {
  std::uint32_t file;      // index into the writers
  std::uint32_t source;    // index into the sources; kNoIndex: zeros
  std::uint64_t offset;    // first byte in the file
  std::uint64_t nbytes;    // stored bytes written
  std::uint64_t start;     // first stored byte of the source that this op takes
  std::uint32_t pipeline;  // kNoIndex: bytes as they are
  std::uint32_t tensor;    // checksum slot; kNoIndex: not hashed

  std::uint64_t end() const noexcept { return offset + nbytes; }
};

// A pipeline, of one AffineEncode to uint8 or uint16, whose scale, min and max are placeholders:
// the plan chooses them by the range of the source, all of it, as ChooseAffine does. The source is
// float32 in memory, in C order, with one value at least; ops with that pipeline take it only.
struct LateRange {
  std::uint32_t pipeline;
  std::uint32_t source;
};

struct WritePlan {
  std::vector<WriteOp> ops;  // sorted by (file, offset), not overlapping; gaps between are zeros
  std::vector<WriteSource> sources;
  std::vector<Pipeline> pipelines;
  std::size_t tensors = 0;
  bool crc32c = true;  // compute CRC-32C of each tensor's stored bytes
  bool crc32 = false;  // and CRC-32 (zip)
  std::vector<ChecksumSpec> source_checksums;
  std::vector<LateRange> late_ranges;
};

struct WriteReport {
  std::vector<std::uint32_t> crc32c;  // one a tensor, over its ops in plan order; 0: not asked for
  std::vector<std::uint32_t> crc32;
  std::vector<AffineParameters> chosen;  // of each of the late ranges
};

// Fills the files; does not Sync, Commit or Abort them. Work is cut at block boundaries (up to 8
// MiB, aligned in the file). A block is gathered into an aligned bounce buffer, the checksum riding
// along, and written by the pool; contiguous memory that a buffered writer takes as it is goes
// straight. Errors as for ExecuteRead; a damaged source is kChecksum with the place of its extent,
// a late range that is not finite kUnsupported with its tensor.
WriteReport ExecuteWrite(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                         std::span<const std::shared_ptr<const Reader>> readers,
                         const ExecuteOptions& options = {});

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_H_
