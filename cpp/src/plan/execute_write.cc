// Write execution. Each file is cut into blocks, aligned in the file, that the workers take in
// order. For a direct writer a block is gathered into the worker's bounce buffer and written from
// there, so that one worker gathers while another waits for the disk. For a buffered one, memory
// that needs no change is hashed in cache-sized tiles and written from where it is; only what is
// small, strided or converted is gathered first.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "plan/cold.h"
#include "plan/execution.h"
#include "plan/produce.h"
#include "plan/sums.h"
#include "plan/validate.h"
#include "weightlift/buffer.h"
#include "weightlift/error.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

constexpr std::uint64_t kBlockBytes = 8u << 20;
constexpr std::uint64_t kLeastBlockBytes = 1u << 20;
constexpr std::uint64_t kStreamBlockBytes = 4u << 20;
constexpr std::uint64_t kPage = 4096;
// Buffered writes: memory runs from this size on are not copied, smaller ones are gathered to this.
constexpr std::uint64_t kStraightBytes = 64u << 10;
constexpr std::uint64_t kGatherBytes = 512u << 10;

// What one task writes: bytes [begin, end) of a file, from ops [first, last). Part i of op
// first + i has its checksums in sums_[first_sum + i].
struct Block {
  std::uint32_t file;
  std::size_t first, last;
  std::uint64_t begin, end;
  std::size_t first_sum;
};

// The part of an op that is in [begin, end) of its file; relative to the op; empty if there is
// none.
struct PartRange {
  PartRange(const WriteOp& op, std::uint64_t from, std::uint64_t to)
      : begin(std::clamp(from, op.offset, op.end()) - op.offset),
        end(std::clamp(to, op.offset, op.end()) - op.offset) {}
  std::uint64_t size() const { return end - begin; }
  std::uint64_t begin, end;
};

std::vector<Block> CutBlocks(std::span<const WriteOp> ops, std::uint64_t block_bytes) {
  std::vector<Block> blocks;
  std::size_t sums = 0;
  for (std::size_t i = 0; i < ops.size();) {
    std::size_t file_last = i;
    while (file_last < ops.size() && ops[file_last].file == ops[i].file) ++file_last;
    std::size_t first = i;
    std::uint64_t at = ops[i].offset;
    const std::uint64_t file_end = ops[file_last - 1].end();
    while (at < file_end) {
      const std::uint64_t end = std::min(file_end - at, block_bytes - at % block_bytes) + at;
      while (ops[first].end() <= at) ++first;
      std::size_t last = first;
      while (last < file_last && ops[last].offset < end) ++last;
      blocks.push_back({ops[i].file, first, last, at, end, sums});
      sums += last - first;
      at = end;
    }
    i = file_last;
  }
  return blocks;
}

[[noreturn]] void RefuseCheck(std::size_t source) {
  throw Error(ErrorCode::kInvalidArgument,
              "source " + std::to_string(source) +
                  " of the plan has a checksum, but is not written whole and once");
}

// The ops whose sources have a checksum, in the order of the checked bytes. Throws unless they take
// each of those sources whole, once.
std::vector<std::size_t> CheckedOps(const WritePlan& plan, const Producer& producer) {
  std::vector<std::size_t> checked;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    if (producer.SourceKind(plan.ops[i]) != ChecksumKind::kNone) checked.push_back(i);
  }
  const auto position = [&](std::size_t i) {
    return std::pair(plan.ops[i].source, plan.ops[i].start);
  };
  std::stable_sort(checked.begin(), checked.end(),
                   [&](std::size_t a, std::size_t b) { return position(a) < position(b); });
  struct Covered {
    std::uint64_t stored = 0;
    std::uint64_t source = 0;
  };
  std::vector<Covered> covered(plan.sources.size());
  for (const std::size_t i : checked) {
    const WriteOp& op = plan.ops[i];
    Covered& so_far = covered[op.source];
    if (op.start != so_far.stored) RefuseCheck(op.source);
    so_far.stored += op.nbytes;
    so_far.source += producer.SourceBytes(op, 0, op.nbytes);
  }
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    const auto* const extent = std::get_if<ExtentSource>(&plan.sources[i]);
    if (extent == nullptr || extent->check == kNoIndex) continue;
    const bool hashed = plan.source_checksums[extent->check].kind != ChecksumKind::kNone;
    if (hashed && covered[i].source != extent->nbytes) RefuseCheck(i);
  }
  return checked;
}

class WriteExecution {
 public:
  WriteExecution(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                 std::span<const std::shared_ptr<const Reader>> readers,
                 const ExecuteOptions& options, std::uint64_t total)
      : plan_(plan),
        writers_(writers),
        readers_(readers),
        producer_(plan, readers),
        checked_ops_(CheckedOps(plan, producer_)),
        streams_(Streams()),
        execution_(total,
                   AnyStreams(readers) ? StreamThreads(options.threads)
                   : WaitsForDisk()    ? DiskThreads(options.threads)
                                       : options.threads,
                   options.monitor, streams_ ? Execution::Work::kWaits : Execution::Work::kBusy) {
    const auto workers = static_cast<std::uint64_t>(execution_.workers());
    block_bytes_ =
        options.task_bytes != 0
            ? options.task_bytes
            : std::clamp(total / (4 * workers), kLeastBlockBytes, kBlockBytes) / kPage * kPage;
    // Those that wait for a network, or for their turn, hold their buffers meanwhile.
    if (options.task_bytes == 0 && streams_) {
      block_bytes_ = std::min(block_bytes_, Sequential() ? kLeastBlockBytes : kStreamBlockBytes);
    }
    blocks_ = CutBlocks(plan.ops, block_bytes_);
    if (!blocks_.empty()) {
      sums_.resize(blocks_.back().first_sum + blocks_.back().last - blocks_.back().first);
    }
  }

  WriteReport Run() {
    std::vector<Worker> workers(static_cast<std::size_t>(execution_.workers()));
    execution_.Run(blocks_.size(), [&](std::size_t index, int worker) {
      const Block& block = blocks_[index];
      if (execution_.Abandoned(block.first)) return;
      try {
        Worker& own = workers[static_cast<std::size_t>(worker)];
        own.scratch.stop = [&] { return execution_.Abandoned(block.first); };
        RunBlock(block, own);
      } catch (...) {
        execution_.Fail(block.first, std::current_exception());
      }
    });
    for (const std::shared_ptr<const Reader>& reader : readers_) reader->CheckUnchanged();
    const std::vector<PartSums> op_sums = FoldParts();
    CheckSources(op_sums);
    if (execution_.failed_op() != Execution::kNoOp) execution_.Rethrow();
    execution_.Finish();
    WriteReport report = FoldOps(op_sums);
    report.chosen = producer_.ChosenRanges();
    return report;
  }

 private:
  struct Worker {
    std::shared_ptr<Buffer> bounce;
    Producer::Scratch scratch;

    // Memory for [begin, end) of a file, congruent to it, so that it can be written directly.
    std::span<std::byte> Bounce(std::uint64_t begin, std::uint64_t end, std::uint64_t block_bytes) {
      if (!bounce) bounce = Buffer::Allocate(block_bytes + kPage);
      return bounce->bytes().subspan(begin % kPage, end - begin);
    }
  };

  bool Sequential() const {
    return std::any_of(writers_.begin(), writers_.end(),
                       [](const std::shared_ptr<Writer>& w) { return w->Sequential(); });
  }

  // Whether the work waits for a network, at either end.
  bool Streams() const { return Sequential() || AnyStreams(readers_); }

  bool WaitsForDisk() const {
    for (const std::shared_ptr<Writer>& writer : writers_) {
      if (writer->direct_alignment() != 0) return true;
    }
    for (const WriteSource& source : plan_.sources) {
      const auto* const extent = std::get_if<ExtentSource>(&source);
      if (extent == nullptr || extent->nbytes < kLeastBlockBytes) continue;
      return IsCold(*readers_[extent->reader], extent->offset, kLeastBlockBytes);  // a sample
    }
    return false;
  }

  PartSums& SumsOf(const Block& block, std::size_t op) {
    return sums_[block.first_sum + (op - block.first)];
  }

  void RunBlock(const Block& block, Worker& worker) {
    const bool direct = writers_[block.file]->direct_alignment() != 0;
    worker.scratch.next_reader = direct ? NextReader::kDevice : NextReader::kProcessor;
    if (direct) {
      if (GoesDirect(block)) {
        WriteStraight(block, block.first, block.begin, block.end, worker);
      } else {
        WriteGathered(block, block.first, block.begin, block.end, worker);
      }
      return;
    }
    std::size_t op = block.first;
    for (std::uint64_t at = block.begin; at < block.end;) {
      while (plan_.ops[op].end() <= at) ++op;
      if (GoesStraight(op, at, block.end)) {
        const std::uint64_t end = std::min(plan_.ops[op].end(), block.end);
        for (std::uint64_t next; at < end; at = next) {
          next = at + std::min(kSubBlock, end - at);
          WriteStraight(block, op, at, next, worker);
        }
      } else {
        const std::uint64_t end = GatherEnd(block, op, at);
        if (!WriteGathered(block, op, at, end, worker)) return;
        at = end;
      }
    }
  }

  // Whether the block is one piece of memory that a direct write can take as it is.
  bool GoesDirect(const Block& block) const {
    const WriteOp& op = plan_.ops[block.first];
    const std::byte* const data = producer_.AsTheyAre(op);
    if (data == nullptr || op.offset > block.begin || op.end() < block.end) return false;
    return writers_[block.file]->GoesDirect(
        block.begin, {data + (block.begin - op.offset), block.end - block.begin});
  }

  // Whether the op's bytes from `at` on are best written from where they are.
  bool GoesStraight(std::size_t index, std::uint64_t at, std::uint64_t end) const {
    const WriteOp& op = plan_.ops[index];
    return op.offset <= at && std::min(op.end(), end) - at >= kStraightBytes &&
           producer_.AsTheyAre(op) != nullptr;
  }

  // How far to gather from `at` on, at or before op `op`: up to what goes straight, or to enough.
  std::uint64_t GatherEnd(const Block& block, std::size_t op, std::uint64_t at) const {
    for (; op < block.last; ++op) {
      const WriteOp& next = plan_.ops[op];
      if (next.offset > at && GoesStraight(op, next.offset, block.end)) return next.offset;
      const std::uint64_t end = std::min(next.end(), block.end);
      if (end - at < kGatherBytes) continue;
      return producer_.WantsLongRuns(next) ? end : at + kGatherBytes;
    }
    return block.end;
  }

  void WriteStraight(const Block& block, std::size_t index, std::uint64_t begin, std::uint64_t end,
                     const Worker& worker) {
    const WriteOp& op = plan_.ops[index];
    const std::span<const std::byte> data(producer_.AsTheyAre(op) + (begin - op.offset),
                                          end - begin);
    PartSums& sums = SumsOf(block, index);
    for (std::uint64_t at = 0; at < data.size(); at += kSubBlock) {
      producer_.Hash(op, data.subspan(at, std::min(kSubBlock, data.size() - at)), sums);
    }
    writers_[block.file]->WriteAtUnless(begin, data, worker.scratch.stop);
    execution_.Advance(data.size());
  }

  // Writes [begin, end) of the file from the bounce buffer; `index` is the first op that may have
  // bytes there. False: a source failed and that is recorded.
  bool WriteGathered(const Block& block, std::size_t index, std::uint64_t begin, std::uint64_t end,
                     Worker& worker) {
    const std::span<std::byte> out = worker.Bounce(begin, end, block_bytes_);
    std::uint64_t filled = 0;  // of `out`
    std::uint64_t moved = 0;
    const auto fill_gap = [&](std::uint64_t to) {
      if (to > filled) std::memset(out.data() + filled, 0, to - filled);
    };
    for (; index < block.last && plan_.ops[index].offset < end; ++index) {
      const WriteOp& op = plan_.ops[index];
      const PartRange part(op, begin, end);
      if (part.size() == 0) continue;
      const std::uint64_t at = op.offset + part.begin - begin;
      fill_gap(at);
      try {
        producer_.Produce(op, part.begin, out.subspan(at, part.size()), worker.scratch,
                          SumsOf(block, index));
      } catch (Error& error) {
        if (op.tensor != kNoIndex) error.place().tensor = op.tensor;
        execution_.Fail(index, std::make_exception_ptr(error));
        return false;
      }
      filled = at + part.size();
      moved += part.size();
    }
    fill_gap(out.size());
    writers_[block.file]->WriteAtUnless(begin, out, worker.scratch.stop);
    execution_.Advance(moved);
    return true;
  }

  // The checksums of each op, from those of its parts.
  std::vector<PartSums> FoldParts() const {
    std::vector<PartSums> folded(plan_.ops.size());
    for (const Block& block : blocks_) {
      for (std::size_t i = block.first; i < block.last; ++i) {
        const WriteOp& op = plan_.ops[i];
        const PartRange range(op, block.begin, block.end);
        const PartSums& part = sums_[block.first_sum + (i - block.first)];
        PartSums& sum = folded[i];
        sum.crc32c = Append(ChecksumKind::kCrc32c, sum.crc32c, part.crc32c, range.size());
        sum.crc32 = Append(ChecksumKind::kCrc32, sum.crc32, part.crc32, range.size());
        sum.source = Append(producer_.SourceKind(op), sum.source, part.source,
                            producer_.SourceBytes(op, range.begin, range.end));
      }
    }
    return folded;
  }

  WriteReport FoldOps(std::span<const PartSums> op_sums) const {
    WriteReport report{.crc32c = std::vector<std::uint32_t>(plan_.tensors),
                       .crc32 = std::vector<std::uint32_t>(plan_.tensors),
                       .chosen = {}};
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const WriteOp& op = plan_.ops[i];
      if (op.tensor == kNoIndex) continue;
      std::uint32_t& crc32c = report.crc32c[op.tensor];
      std::uint32_t& crc32 = report.crc32[op.tensor];
      crc32c = Append(ChecksumKind::kCrc32c, crc32c, op_sums[i].crc32c, op.nbytes);
      crc32 = Append(ChecksumKind::kCrc32, crc32, op_sums[i].crc32, op.nbytes);
    }
    return report;
  }

  // Throws for the first damaged source in plan order, of those read before any failure.
  void CheckSources(std::span<const PartSums> op_sums) const {
    if (checked_ops_.empty()) return;
    const std::size_t count = plan_.source_checksums.size();
    std::vector<std::uint32_t> found(count);
    std::vector<StoredRange> ranges(count);
    for (std::size_t i = 0; i < count; ++i) found[i] = plan_.source_checksums[i].initial;
    for (const std::size_t i : checked_ops_) {
      const WriteOp& op = plan_.ops[i];
      const auto& extent = std::get<ExtentSource>(plan_.sources[op.source]);
      const ChecksumKind kind = plan_.source_checksums[extent.check].kind;
      found[extent.check] = Append(kind, found[extent.check], op_sums[i].source,
                                   producer_.SourceBytes(op, 0, op.nbytes));
      ranges[extent.check].Add(i, extent.reader, extent.offset, extent.offset + extent.nbytes);
    }
    std::size_t first = count;
    for (std::size_t i = 0; i < count; ++i) {
      const ChecksumSpec& spec = plan_.source_checksums[i];
      const bool damaged = spec.kind != ChecksumKind::kNone && spec.verify && !ranges[i].empty() &&
                           found[i] != spec.expected;
      if (!damaged || ranges[i].last_op >= execution_.failed_op()) continue;
      if (first == count || ranges[i].first_op < ranges[first].first_op) first = i;
    }
    if (first == count) return;
    throw ChecksumMismatch(plan_.source_checksums[first], found[first],
                           plan_.ops[ranges[first].first_op].tensor, ranges[first], readers_);
  }

  const WritePlan& plan_;
  const std::span<const std::shared_ptr<Writer>> writers_;
  const std::span<const std::shared_ptr<const Reader>> readers_;
  const Producer producer_;
  const std::vector<std::size_t> checked_ops_;
  const bool streams_;
  Execution execution_;
  std::uint64_t block_bytes_;
  std::vector<Block> blocks_;
  std::vector<PartSums> sums_;
};

}  // namespace

WriteReport ExecuteWrite(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                         std::span<const std::shared_ptr<const Reader>> readers,
                         const ExecuteOptions& options) {
  const std::uint64_t total = ValidateWrite(plan, writers, readers);
  return WriteExecution(plan, writers, readers, options, total).Run();
}

}  // namespace weightlift
