// Read execution. The sorted plan is cut into tasks; a task is read in sub-blocks, each by one call
// into all its destinations (ReadScatter where they are scattered), and hashed and converted right
// after it landed, while it is in cache. A reader that streams gets the whole task as one request,
// and its bytes go to the sub-blocks as they come. Bytes that have no plain destination (gaps,
// input of pipelines, bytes that are only hashed) land in the worker's scratch. So does what comes
// from a disk in one long read and could not land where it belongs without a bounce: the copy, with
// the checksum riding along, costs less than the many short reads of a bounce.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "plan/cold.h"
#include "plan/execution.h"
#include "plan/landing.h"
#include "plan/sums.h"
#include "plan/validate.h"
#include "weightlift/error.h"
#include "weightlift/plan.h"

namespace weightlift {
namespace {

constexpr std::uint64_t kTaskBytes = 8u << 20;
constexpr std::uint64_t kLeastTaskBytes = 1u << 20;
// Throwing away this much costs less than one more system call, or one more trip to the disk.
constexpr std::uint64_t kWarmGap = 4u << 10;
constexpr std::uint64_t kColdGap = 64u << 10;
constexpr std::uint64_t kStreamGap = 256u << 10;  // or one more request
constexpr std::uint64_t kPage = 4096;

using Bytes = std::span<std::byte>;
using Part = ReadPart;
using Worker = ReadWorker;

// The ops in file order. Most plans are in that order already and are used as they are.
class SortedOps {
 public:
  explicit SortedOps(std::span<const ReadOp> ops) : ops_(ops) {
    const auto before = [](const ReadOp& a, const ReadOp& b) {
      return std::pair(a.source, a.offset) < std::pair(b.source, b.offset);
    };
    if (std::is_sorted(ops.begin(), ops.end(), before)) return;
    order_.reserve(ops.size());
    for (std::size_t i = 0; i < ops.size(); ++i) order_.push_back(i);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return before(ops[a], ops[b]); });
    copy_.reserve(ops.size());
    for (const std::size_t i : order_) copy_.push_back(ops[i]);
    ops_ = copy_;
  }
  SortedOps(const SortedOps&) = delete;
  SortedOps& operator=(const SortedOps&) = delete;

  std::span<const ReadOp> ops() const { return ops_; }
  std::size_t PlanIndex(std::size_t i) const { return order_.empty() ? i : order_[i]; }

 private:
  std::span<const ReadOp> ops_;
  std::vector<ReadOp> copy_;
  std::vector<std::size_t> order_;
};

// Whether the plan will wait for a disk, by a few samples: asking for everything would cost more.
bool LooksCold(std::span<const ReadOp> ops, std::span<const std::shared_ptr<const Reader>> readers,
               std::uint64_t total) {
  constexpr std::size_t kSamples = 8;
  if (total < kLeastTaskBytes) return false;
  const std::size_t samples = std::min(kSamples, ops.size());
  for (std::size_t i = 0; i < samples; ++i) {
    const ReadOp& op = ops[i * ops.size() / samples];
    if (IsCold(*readers[op.source], op.offset, std::min(op.nbytes, kLeastTaskBytes))) return true;
  }
  return false;
}

class ReadExecution {
 public:
  ReadExecution(const ReadPlan& plan, std::span<const std::shared_ptr<const Reader>> readers,
                std::span<const Bytes> buffers, const ExecuteOptions& options, std::uint64_t total)
      : plan_(plan),
        readers_(readers),
        buffers_(buffers),
        sorted_(plan.ops),
        streams_(AnyStreams(readers)),
        cold_(!streams_ && LooksCold(sorted_.ops(), readers, total)),
        execution_(total,
                   streams_ ? StreamThreads(options.threads)
                   : cold_  ? DiskThreads(options.threads)
                            : options.threads,
                   options.monitor, streams_ ? Execution::Work::kWaits : Execution::Work::kBusy) {
    const std::uint64_t task_bytes =
        options.task_bytes != 0 ? options.task_bytes : TaskBytes(total);
    // So that tasks made small by a test consist of several sub-blocks, too.
    sub_block_ = std::clamp<std::uint64_t>(task_bytes / 4, 1, kSubBlock);
    const std::uint64_t max_gap = streams_ ? kStreamGap : cold_ ? kColdGap : kWarmGap;
    tasks_ = Coalesce(ops(), {.task_bytes = task_bytes, .max_gap = max_gap});
    if (plan.checksums.empty()) return;
    first_sum_.reserve(tasks_.size());
    std::size_t pieces = 0;
    for (const ReadTask& task : tasks_) {
      first_sum_.push_back(pieces);
      pieces += task.last - task.first;
    }
    sums_.resize(pieces);
  }

  std::vector<std::uint32_t> Run() {
    std::vector<Worker> workers(static_cast<std::size_t>(execution_.workers()));
    execution_.Run(tasks_.size(), [&](std::size_t index, int worker) {
      const ReadTask& task = tasks_[index];
      try {
        if (readers_[ops()[task.first].source]->Streams()) {
          StreamTask(index, workers[static_cast<std::size_t>(worker)]);
        } else {
          RunTask(index, workers[static_cast<std::size_t>(worker)]);
        }
      } catch (...) {
        execution_.Fail(FirstInPlan(task.first, task.last), std::current_exception());
      }
    });
    for (const std::shared_ptr<const Reader>& reader : readers_) reader->CheckUnchanged();
    std::vector<std::uint32_t> found = FoldSums();
    CheckSums(found);
    if (execution_.failed_op() != Execution::kNoOp) execution_.Rethrow();
    execution_.Finish();
    return found;
  }

 private:
  class TaskSink;

  std::uint64_t TaskBytes(std::uint64_t total) const {
    for (const std::shared_ptr<const Reader>& reader : readers_) {
      const std::uint64_t wanted = reader->Streams() ? reader->StreamBytes(total) : 0;
      if (wanted != 0) return wanted;
    }
    const auto workers = static_cast<std::uint64_t>(execution_.workers());
    return std::clamp(total / (4 * workers), kLeastTaskBytes, kTaskBytes) / kPage * kPage;
  }

  std::span<const ReadOp> ops() const { return sorted_.ops(); }
  const Pipeline* PipelineOf(const ReadOp& op) const {
    return op.pipeline == kNoIndex ? nullptr : &plan_.pipelines[op.pipeline];
  }
  ChecksumKind KindOf(const ReadOp& op) const {
    if (plan_.checksums.empty() || op.tensor == kNoIndex) return ChecksumKind::kNone;
    return plan_.checksums[op.tensor].kind;
  }
  std::size_t FirstInPlan(std::size_t first, std::size_t last) const {
    std::size_t least = Execution::kNoOp;
    for (std::size_t i = first; i < last; ++i) least = std::min(least, sorted_.PlanIndex(i));
    return least;
  }

  // A cut of the file at `at`, moved up so that it does not go through an element of `op`.
  std::uint64_t WholeElements(const ReadOp& op, std::uint64_t at) const {
    const Pipeline* const pipeline = PipelineOf(op);
    if (pipeline == nullptr || at <= op.offset || at >= op.end()) return at;
    const std::uint64_t over = (at - op.offset) % pipeline->in_item();
    return over == 0 ? at : at + (pipeline->in_item() - over);
  }

  void RunTask(std::size_t index, Worker& worker) {
    const ReadTask& task = tasks_[index];
    const Reader& reader = *readers_[ops()[task.first].source];
    std::uint64_t at = WholeElements(ops()[task.first], task.begin);
    const std::uint64_t end = WholeElements(ops()[task.last - 1], task.end);
    if (at >= end) return;
    const bool cold = end - at > sub_block_ && IsCold(reader, at, end - at);
    const std::uint64_t step = cold ? end - at : sub_block_;
    std::uint32_t* const sums = sums_.empty() ? nullptr : &sums_[first_sum_[index]];
    std::size_t op = task.first;
    while (at < end) {
      if (!execution_.undisturbed() && execution_.Abandoned(FirstInPlan(op, task.last))) return;
      const std::uint64_t cut = end - at <= step ? end : CutAt(op, task.last, at + step);
      Collect(op, at, cut, Landing::kInPlace, worker);
      if (cold && !LandsWithoutBounce(worker.outs, at)) {
        Collect(op, at, cut, Landing::kInScratch, worker);
      }
      if (Read(reader, at, worker)) {
        for (const Part& part : worker.parts) Finish(part, sums, task);
      } else {
        for (const Part& part : worker.parts) {
          if (ReadAlone(reader, part)) Finish(part, sums, task);
        }
      }
      execution_.Advance(cut - at);
      while (op + 1 < task.last && ops()[op].end() <= cut) ++op;
      at = cut;
    }
  }

  void StreamTask(std::size_t index, Worker& worker);

  // The cut at `at` or the next one after it that keeps elements whole; `at` is inside of
  // ops [first, last).
  std::uint64_t CutAt(std::size_t first, std::size_t last, std::uint64_t at) const {
    const std::span<const ReadOp> range = ops().subspan(first, last - first);
    auto holder = std::upper_bound(
        range.begin(), range.end(), at,
        [](std::uint64_t position, const ReadOp& op) { return position < op.offset; });
    do {  // ops of no bytes have nothing to cut; the first one has some
      --holder;
    } while (holder->nbytes == 0);
    return WholeElements(*holder, at);
  }

  enum class Landing : std::uint8_t { kInPlace, kInScratch };

  // Lists the parts of [at, cut) and where they land. `op` is the first that has bytes there.
  void Collect(std::size_t op, std::uint64_t at, std::uint64_t cut, Landing landing,
               Worker& worker) const {
    worker.parts.clear();
    worker.outs.clear();
    for (std::uint64_t position = at; position < cut; ++op) {
      const ReadOp& item = ops()[op];
      const std::uint64_t begin = std::clamp(item.offset, position, cut);
      const std::uint64_t end = std::clamp(item.end(), begin, cut);
      if (position < begin) {
        worker.Land(worker.Scratch(at, cut).subspan(position - at, begin - position));
      }
      if (begin < end) {
        Part part{op, begin, {}, nullptr};
        const bool direct = item.buffer != kNoIndex && item.pipeline == kNoIndex;
        if (direct) {
          part.stored =
              buffers_[item.buffer].subspan(item.dest + (begin - item.offset), end - begin);
        }
        if (!direct || landing == Landing::kInScratch) {
          part.copy_to = direct ? part.stored.data() : nullptr;
          part.stored = worker.Scratch(at, cut).subspan(begin - at, end - begin);
        }
        worker.Land(part.stored);
        worker.parts.push_back(part);
      }
      position = end;
    }
  }

  // False: it failed; which op is to blame is not known.
  static bool Read(const Reader& reader, std::uint64_t at, const Worker& worker) {
    try {
      if (worker.outs.size() == 1) {
        reader.ReadAt(at, worker.outs[0]);
      } else {
        reader.ReadScatter(at, worker.outs);
      }
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  // False: it failed, and that is recorded.
  bool ReadAlone(const Reader& reader, const Part& part) {
    try {
      reader.ReadAt(part.offset, part.stored);
      return true;
    } catch (Error& error) {
      const std::uint32_t tensor = ops()[part.op].tensor;
      if (tensor != kNoIndex) error.place().tensor = tensor;
      execution_.Fail(sorted_.PlanIndex(part.op), std::make_exception_ptr(error));
      return false;
    }
  }

  // What happens to a part that has landed.
  void Finish(const Part& part, std::uint32_t* sums, const ReadTask& task) const {
    const ChecksumKind kind = KindOf(ops()[part.op]);
    std::uint32_t unused = 0;
    std::uint32_t& sum = sums != nullptr ? sums[part.op - task.first] : unused;
    if (part.copy_to == nullptr) {
      sum = Extend(kind, sum, part.stored.subspan(part.hashed));
    } else {
      sum = CopyAndExtend(kind, sum, part.stored, {part.copy_to, part.stored.size()});
    }
    Convert(part);
  }

  void Convert(const Part& part) const {
    const ReadOp& op = ops()[part.op];
    const Pipeline* const pipeline = PipelineOf(op);
    if (pipeline == nullptr) return;
    const std::uint64_t element = (part.offset - op.offset) / pipeline->in_item();
    pipeline->Run(part.stored.data(),
                  buffers_[op.buffer].data() + op.dest + element * pipeline->out_item(),
                  part.stored.size() / pipeline->in_item());
  }

  // The checksum of each tensor, from those of the pieces.
  std::vector<std::uint32_t> FoldSums() const {
    std::vector<std::uint32_t> found(plan_.checksums.size());
    if (plan_.checksums.empty()) return found;
    std::vector<std::uint32_t> op_sums(plan_.ops.size());
    for (std::size_t t = 0; t < tasks_.size(); ++t) {
      const ReadTask& task = tasks_[t];
      for (std::size_t i = task.first; i < task.last; ++i) {
        const ReadOp& op = ops()[i];
        const std::uint64_t begin = std::max(WholeElements(op, task.begin), op.offset);
        const std::uint64_t end = std::min(WholeElements(op, task.end), op.end());
        std::uint32_t& sum = op_sums[sorted_.PlanIndex(i)];
        if (begin < end)
          sum = Append(KindOf(op), sum, sums_[first_sum_[t] + i - task.first], end - begin);
      }
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (plan_.checksums[i].kind != ChecksumKind::kNone) found[i] = plan_.checksums[i].initial;
    }
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const ReadOp& op = plan_.ops[i];
      const ChecksumKind kind = KindOf(op);
      if (kind == ChecksumKind::kNone) continue;
      found[op.tensor] = Append(kind, found[op.tensor], op_sums[i], op.nbytes);
    }
    return found;
  }

  // Throws for the first tensor in plan order that is damaged, of those that came before any
  // failure.
  void CheckSums(std::span<const std::uint32_t> found) const {
    std::vector<bool> damaged(found.size());
    bool any = false;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const ChecksumSpec& spec = plan_.checksums[i];
      damaged[i] = spec.kind != ChecksumKind::kNone && spec.verify && found[i] != spec.expected;
      any = any || damaged[i];
    }
    if (!any) return;
    std::vector<StoredRange> ranges(found.size());
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const ReadOp& op = plan_.ops[i];
      if (op.tensor != kNoIndex && damaged[op.tensor]) {
        ranges[op.tensor].Add(i, op.source, op.offset, op.end());
      }
    }
    std::size_t first = found.size();
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (!damaged[i] || ranges[i].last_op >= execution_.failed_op()) continue;
      if (first == found.size() || ranges[i].first_op < ranges[first].first_op) first = i;
    }
    if (first == found.size()) return;
    throw ChecksumMismatch(plan_.checksums[first], found[first], static_cast<std::uint32_t>(first),
                           ranges[first], readers_);
  }

  const ReadPlan& plan_;
  const std::span<const std::shared_ptr<const Reader>> readers_;
  const std::span<const Bytes> buffers_;
  const SortedOps sorted_;
  const bool streams_;
  const bool cold_;
  Execution execution_;
  std::uint64_t sub_block_;
  std::vector<ReadTask> tasks_;
  // The checksum of op i's part in task t is sums_[first_sum_[t] + i - tasks_[t].first].
  std::vector<std::size_t> first_sum_;
  std::vector<std::uint32_t> sums_;
};

// Gives a streamed task's bytes their places, one sub-block after the other.
class ReadExecution::TaskSink final : public StreamSink {
 public:
  TaskSink(ReadExecution& read, std::size_t index, std::uint64_t begin, std::uint64_t end,
           Worker& worker)
      : read_(read),
        task_(read.tasks_[index]),
        sums_(read.sums_.empty() ? nullptr : &read.sums_[read.first_sum_[index]]),
        end_(end),
        worker_(worker),
        op_(task_.first),
        at_(begin) {
    Next();
  }

  std::span<std::byte> Room() override { return worker_.outs[out_].subspan(filled_); }

  void Filled(std::size_t nbytes) override {
    filled_ += nbytes;
    landed_ += nbytes;
    if (filled_ < worker_.outs[out_].size()) return;
    filled_ = 0;
    if (++out_ < worker_.outs.size()) return;
    for (const Part& part : worker_.parts) read_.Finish(part, sums_, task_);
    read_.execution_.Advance(cut_ - at_);
    while (op_ + 1 < task_.last && read_.ops()[op_].end() <= cut_) ++op_;
    at_ = cut_;
    if (at_ < end_) Next();
  }

  void Put(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const std::uint64_t at = at_ + landed_;
      while (part_ < worker_.parts.size() && worker_.parts[part_].end() <= at) ++part_;
      Part* const part = part_ < worker_.parts.size() ? &worker_.parts[part_] : nullptr;
      const std::span<std::byte> room = Room();
      std::size_t n = std::min(room.size(), bytes.size());
      if (part == nullptr || at < part->offset) {  // between the ops
        if (part != nullptr) n = std::min<std::uint64_t>(n, part->offset - at);
        std::memcpy(room.data(), bytes.data(), n);
      } else {
        n = std::min<std::uint64_t>(n, part->end() - at);
        const ChecksumKind kind = read_.KindOf(read_.ops()[part->op]);
        if (kind == ChecksumKind::kNone || at - part->offset != part->hashed) {
          std::memcpy(room.data(), bytes.data(), n);
        } else {
          std::uint32_t& sum = sums_[part->op - task_.first];
          sum = CopyAndExtend(kind, sum, bytes.first(n), room.first(n));
          part->hashed += n;
        }
      }
      bytes = bytes.subspan(n);
      Filled(n);
    }
  }

  bool Stopped() override {
    return !read_.execution_.undisturbed() &&
           read_.execution_.Abandoned(read_.FirstInPlan(op_, task_.last));
  }

  // Of a stream that broke off: what landed whole is checked and converted like all else.
  void FinishLanded() {
    const std::uint64_t landed = at_ < end_ ? at_ + landed_ : 0;
    for (const Part& part : worker_.parts) {
      if (part.offset + part.stored.size() <= landed) read_.Finish(part, sums_, task_);
    }
  }

  // The op to blame when no more bytes come: of those that lack some, the first
  // in the plan.
  std::size_t Blamed() const {
    std::size_t first = op_;
    while (first + 1 < task_.last && read_.ops()[first].end() <= at_ + landed_) ++first;
    std::size_t blamed = first;
    for (std::size_t i = first; i < task_.last; ++i) {
      if (read_.sorted_.PlanIndex(i) < read_.sorted_.PlanIndex(blamed)) blamed = i;
    }
    return blamed;
  }

 private:
  void Next() {
    cut_ = end_ - at_ <= read_.sub_block_ ? end_
                                          : read_.CutAt(op_, task_.last, at_ + read_.sub_block_);
    read_.Collect(op_, at_, cut_, Landing::kInPlace, worker_);
    out_ = 0;
    part_ = 0;
    landed_ = 0;
  }

  ReadExecution& read_;
  const ReadTask& task_;
  std::uint32_t* const sums_;
  const std::uint64_t end_;
  Worker& worker_;
  std::size_t op_;  // the first with bytes in the sub-block
  std::uint64_t at_;
  std::uint64_t cut_ = 0;  // the sub-block is [at_, cut_)
  std::size_t out_ = 0;
  std::size_t part_ = 0;      // that the next byte is in, or before
  std::size_t filled_ = 0;    // of that out
  std::uint64_t landed_ = 0;  // of the sub-block
};

void ReadExecution::StreamTask(std::size_t index, Worker& worker) {
  const ReadTask& task = tasks_[index];
  const std::uint64_t begin = WholeElements(ops()[task.first], task.begin);
  const std::uint64_t end = WholeElements(ops()[task.last - 1], task.end);
  if (begin >= end || execution_.Abandoned(FirstInPlan(task.first, task.last))) return;
  TaskSink sink(*this, index, begin, end, worker);
  try {
    readers_[ops()[task.first].source]->ReadStream(begin, end - begin, sink);
  } catch (Error& error) {
    if (sink.Stopped()) return;
    sink.FinishLanded();
    const std::size_t op = sink.Blamed();
    const std::uint32_t tensor = ops()[op].tensor;
    if (tensor != kNoIndex) error.place().tensor = tensor;
    execution_.Fail(sorted_.PlanIndex(op), std::make_exception_ptr(error));
  }
}

}  // namespace

std::vector<std::uint32_t> ExecuteRead(const ReadPlan& plan,
                                       std::span<const std::shared_ptr<const Reader>> readers,
                                       std::span<const std::span<std::byte>> buffers,
                                       const ExecuteOptions& options) {
  const std::uint64_t total = ValidateRead(plan, readers, buffers);
  return ReadExecution(plan, readers, buffers, options, total).Run();
}

}  // namespace weightlift
