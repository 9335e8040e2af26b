#include "plan/validate.h"

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/checked.h"
#include "plan/gather.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

[[noreturn]] void Refuse(std::size_t op, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, "op " + std::to_string(op) + " of the plan: " + what);
}

void CheckIndex(std::size_t op, const char* name, std::uint64_t index, std::size_t count) {
  if (index < count) return;
  Refuse(op, std::string(name) + " " + std::to_string(index) + " of " + std::to_string(count));
}

template <typename T>
void CheckPresent(std::span<const std::shared_ptr<T>> files, const char* name) {
  for (const std::shared_ptr<T>& file : files) {
    if (!file) throw Error(ErrorCode::kInvalidArgument, std::string("a ") + name + " is missing");
  }
}

// Bytes that come out of `pipeline` for `nbytes` that go in; nullopt on overflow or a cut element.
std::optional<std::uint64_t> OutputBytes(std::uint64_t nbytes, std::uint32_t pipeline,
                                         std::span<const Pipeline> pipelines) {
  if (pipeline == kNoIndex) return nbytes;
  const Pipeline& steps = pipelines[pipeline];
  if (nbytes % steps.in_item() != 0) return std::nullopt;
  return CheckedMultiply<std::uint64_t>(nbytes / steps.in_item(), steps.out_item());
}

std::uint64_t CheckedTotal(std::uint64_t total, std::uint64_t nbytes, std::size_t op) {
  const std::optional<std::uint64_t> sum = CheckedAdd(total, nbytes);
  if (!sum) Refuse(op, "the plan's bytes overflow 64 bits");
  return *sum;
}

void ValidateReadOp(const ReadPlan& plan, std::size_t i,
                    std::span<const std::shared_ptr<const Reader>> readers,
                    std::span<const std::span<std::byte>> buffers) {
  const ReadOp& op = plan.ops[i];
  CheckIndex(i, "source", op.source, readers.size());
  if (!plan.checksums.empty() && op.tensor != kNoIndex) {
    CheckIndex(i, "tensor", op.tensor, plan.checksums.size());
  }
  if (op.pipeline != kNoIndex) CheckIndex(i, "pipeline", op.pipeline, plan.pipelines.size());
  const auto output = OutputBytes(op.nbytes, op.pipeline, plan.pipelines);
  if (!output) Refuse(i, std::to_string(op.nbytes) + " bytes are not whole elements");
  if (op.buffer == kNoIndex) {
    if (op.pipeline != kNoIndex) Refuse(i, "a pipeline without a destination");
    return;
  }
  CheckIndex(i, "buffer", op.buffer, buffers.size());
  if (!FitsInside(op.dest, *output, buffers[op.buffer].size())) {
    Refuse(i, std::to_string(*output) + " bytes at " + std::to_string(op.dest) +
                  " do not fit buffer " + std::to_string(op.buffer) + " of " +
                  std::to_string(buffers[op.buffer].size()));
  }
}

// The source's bytes before the pipeline.
std::uint64_t SourceBytes(const WritePlan& plan, std::size_t index,
                          std::span<const std::shared_ptr<const Reader>> readers) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kInvalidArgument,
                "source " + std::to_string(index) + " of the plan: " + what);
  };
  if (const auto* extent = std::get_if<ExtentSource>(&plan.sources[index])) {
    if (extent->reader >= readers.size()) refuse("no reader " + std::to_string(extent->reader));
    if (extent->check != kNoIndex && extent->check >= plan.source_checksums.size()) {
      refuse("no checksum " + std::to_string(extent->check));
    }
    return extent->nbytes;
  }
  const auto& memory = std::get<MemorySource>(plan.sources[index]);
  if (memory.data == nullptr && memory.nbytes != 0) refuse("no memory");
  if (memory.strides.empty()) return memory.nbytes;
  if (memory.strides.size() != memory.shape.size()) refuse("strides do not match the shape");
  if (memory.shape.size() > kMaxAxes) refuse("too many dimensions");
  std::optional<std::uint64_t> product = memory.item;
  for (const std::uint64_t n : memory.shape) {
    if (product) product = CheckedMultiply(*product, n);
  }
  if (memory.item == 0 || product != memory.nbytes) refuse("size does not match the shape");
  return memory.nbytes;
}

// Sizes of sources and indices of ops have been checked.
void ValidateLateRanges(const WritePlan& plan) {
  if (plan.late_ranges.empty()) return;
  std::vector<std::uint32_t> source_of(plan.pipelines.size(), kNoIndex);
  for (const LateRange& late : plan.late_ranges) {
    const auto refuse = [](const char* what) {
      throw Error(ErrorCode::kInvalidArgument, std::string("late range: ") + what);
    };
    if (late.pipeline >= plan.pipelines.size()) refuse("no such pipeline");
    if (late.source >= plan.sources.size()) refuse("no such source");
    const Pipeline& pipeline = plan.pipelines[late.pipeline];
    if (pipeline.in_item() != sizeof(float) || pipeline.out_item() > sizeof(std::uint16_t)) {
      refuse("the pipeline does not quantise float32");
    }
    const auto* const memory = std::get_if<MemorySource>(&plan.sources[late.source]);
    if (memory == nullptr || !memory->strides.empty())
      refuse("the source is not in memory in order");
    if (memory->nbytes == 0 || memory->nbytes % sizeof(float) != 0) refuse("no float32 values");
    if (source_of[late.pipeline] != kNoIndex) refuse("two for one pipeline");
    source_of[late.pipeline] = late.source;
  }
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const WriteOp& op = plan.ops[i];
    if (op.pipeline == kNoIndex || source_of[op.pipeline] == kNoIndex) continue;
    if (op.source != source_of[op.pipeline])
      Refuse(i, "its pipeline has the range of another source");
  }
}

}  // namespace

std::uint64_t ValidateRead(const ReadPlan& plan,
                           std::span<const std::shared_ptr<const Reader>> readers,
                           std::span<const std::span<std::byte>> buffers) {
  CheckPresent(readers, "reader");
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    ValidateReadOp(plan, i, readers, buffers);
    total = CheckedTotal(total, plan.ops[i].nbytes, i);
  }
  for (const ReadOp& op : plan.ops) {
    const Reader& reader = *readers[op.source];
    if (FitsInside(op.offset, op.nbytes, reader.size())) continue;
    try {
      CheckRange(reader, op.offset, op.nbytes);
    } catch (Error& error) {
      if (op.tensor != kNoIndex) error.place().tensor = op.tensor;
      throw;
    }
  }
  return total;
}

std::uint64_t ValidateWrite(const WritePlan& plan, std::span<const std::shared_ptr<Writer>> writers,
                            std::span<const std::shared_ptr<const Reader>> readers) {
  CheckPresent(writers, "writer");
  CheckPresent(readers, "reader");
  std::vector<std::uint64_t> source_bytes;
  source_bytes.reserve(plan.sources.size());
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    source_bytes.push_back(SourceBytes(plan, i, readers));
  }
  std::uint64_t total = 0;
  std::uint32_t file = 0;
  std::uint64_t file_end = 0;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const WriteOp& op = plan.ops[i];
    CheckIndex(i, "file", op.file, writers.size());
    if (op.tensor != kNoIndex) CheckIndex(i, "tensor", op.tensor, plan.tensors);
    if (op.pipeline != kNoIndex) CheckIndex(i, "pipeline", op.pipeline, plan.pipelines.size());
    if (op.source == kNoIndex) {
      if (op.pipeline != kNoIndex) Refuse(i, "a pipeline without a source");
    } else {
      CheckIndex(i, "source", op.source, plan.sources.size());
      const auto stored = OutputBytes(source_bytes[op.source], op.pipeline, plan.pipelines);
      if (!stored) Refuse(i, "the source's bytes are not whole elements");
      if (!FitsInside(op.start, op.nbytes, *stored)) {
        Refuse(i, std::to_string(op.nbytes) + " bytes from " + std::to_string(op.start) +
                      " on are more than the source's " + std::to_string(*stored));
      }
    }
    const std::optional<std::uint64_t> end = CheckedAdd(op.offset, op.nbytes);
    if (!end) Refuse(i, "its end overflows 64 bits");
    if (op.file < file || (op.file == file && op.offset < file_end)) {
      Refuse(i, "ops overlap or are not sorted by file and offset");
    }
    file = op.file;
    file_end = *end;
    total = CheckedTotal(total, op.nbytes, i);
  }
  for (const WriteSource& source : plan.sources) {
    const auto* extent = std::get_if<ExtentSource>(&source);
    if (extent != nullptr) CheckRange(*readers[extent->reader], extent->offset, extent->nbytes);
  }
  ValidateLateRanges(plan);
  return total;
}

}  // namespace weightlift
