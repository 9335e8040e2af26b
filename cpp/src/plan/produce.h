// Makes the stored bytes of a write plan: from memory of any strides or from another file, through
// a pipeline or as they are, with the checksums of what comes in and of what goes out.
#ifndef WEIGHTLIFT_PLAN_PRODUCE_H_
#define WEIGHTLIFT_PLAN_PRODUCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/gather.h"
#include "plan/late_ranges.h"
#include "weightlift/buffer.h"
#include "weightlift/checksum.h"
#include "weightlift/plan.h"
#include "weightlift/stop.h"

namespace weightlift {

// Checksums of part of an op: of its stored bytes, and of the bytes of its source.
struct PartSums {
  std::uint32_t crc32c = 0;
  std::uint32_t crc32 = 0;
  std::uint32_t source = 0;
};

class Producer {
 public:
  // One a worker; keeps memory for the input of pipelines.
  class Scratch {
   public:
    // Memory for `nbytes` that come from `offset` of a file: congruent to it, so that direct reads
    // need no bounce. It is the same memory each time.
    std::span<std::byte> Get(std::uint64_t nbytes, std::uint64_t offset);

    StopPredicate stop{};                             // asked while a source makes us wait
    NextReader next_reader = NextReader::kProcessor;  // of what is produced

   private:
    std::shared_ptr<Buffer> memory_;
  };

  // The plan must be valid and stay; so must what it points to.
  Producer(const WritePlan& plan, std::span<const std::shared_ptr<const Reader>> readers);

  // Fills `out` with the op's stored bytes from `begin` (relative to the op) on, and adds them to
  // `sums`. Thread-safe.
  void Produce(const WriteOp& op, std::uint64_t begin, std::span<std::byte> out, Scratch& scratch,
               PartSums& sums) const;

  // The op's stored bytes where they are in memory as they are, else nullptr.
  const std::byte* AsTheyAre(const WriteOp& op) const;
  void Hash(const WriteOp& op, std::span<const std::byte> stored, PartSums& sums) const;

  // Of the plan's late ranges, once all has been produced.
  std::vector<AffineParameters> ChosenRanges() const { return late_ranges_->Chosen(); }

  // The kind of checksum that the op's source is verified by.
  ChecksumKind SourceKind(const WriteOp& op) const;

  // Whether making [begin, begin + n) in pieces would cost more: strides and disks want long runs.
  bool WantsLongRuns(const WriteOp& op) const;

  // Bytes of the source whose checksum belongs to stored bytes [begin, end) of the op: those of the
  // elements that start there.
  std::uint64_t SourceBytes(const WriteOp& op, std::uint64_t begin, std::uint64_t end) const;

 private:
  const Pipeline* PipelineOf(const WriteOp& op) const;
  void CopyMemory(const WriteOp& op, const std::byte* from, std::span<std::byte> out,
                  NextReader next, PartSums& sums) const;
  void ReadExtent(const WriteOp& op, const ExtentSource& extent, std::uint64_t begin,
                  std::span<std::byte> out, Scratch& scratch, PartSums& sums) const;
  void Convert(const WriteOp& op, const Pipeline& pipeline, std::uint64_t begin,
               std::span<std::byte> out, Scratch& scratch, PartSums& sums) const;
  // How many elements to fetch at once for nbytes of output, at least `tile`'s worth.
  std::uint64_t FetchElements(const WriteOp& op, const Pipeline& pipeline, std::uint64_t begin,
                              std::uint64_t nbytes, std::uint64_t tile) const;
  // Elements [first, first + count) of the source, in place or in scratch.
  const std::byte* Fetch(const WriteOp& op, const Pipeline& pipeline, std::uint64_t first,
                         std::uint64_t count, Scratch& scratch) const;

  const WritePlan& plan_;
  const std::span<const std::shared_ptr<const Reader>> readers_;
  const std::unique_ptr<LateRanges> late_ranges_;
  std::vector<Gather> gathers_;  // one a source; of nothing where it is an extent
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_PRODUCE_H_
