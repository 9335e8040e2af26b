#include "plan/produce.h"

#include <algorithm>
#include <cstring>
#include <variant>

#include "plan/cold.h"
#include "plan/sums.h"

namespace weightlift {
namespace {

// The input of a pipeline is fetched in pieces of this size where it is not in memory in order.
constexpr std::uint64_t kFetchBytes = 4u << 20;
constexpr std::uint64_t kPage = 4096;

// Calls body for consecutive tiles that stay in cache.
template <typename Byte, typename Body>
void ForTiles(std::span<Byte> bytes, const Body& body) {
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::size_t>(bytes.size(), kSubBlock);
    body(bytes.first(n));
    bytes = bytes.subspan(n);
  }
}

std::uint64_t DivideUp(std::uint64_t a, std::uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

std::span<std::byte> Producer::Scratch::Get(std::uint64_t nbytes, std::uint64_t offset) {
  const std::uint64_t skip = offset % kPage;
  if (!memory_ || memory_->bytes().size() < skip + nbytes) {
    memory_ = Buffer::Allocate(kPage + std::max(nbytes, kFetchBytes));
  }
  return memory_->bytes().subspan(skip, nbytes);
}

Producer::Producer(const WritePlan& plan, std::span<const std::shared_ptr<const Reader>> readers)
    : plan_(plan), readers_(readers), late_ranges_(std::make_unique<LateRanges>(plan)) {
  gathers_.reserve(plan.sources.size());
  for (const WriteSource& source : plan.sources) {
    const auto* const memory = std::get_if<MemorySource>(&source);
    gathers_.emplace_back(memory != nullptr ? *memory : MemorySource{});
  }
}

const Pipeline* Producer::PipelineOf(const WriteOp& op) const {
  return op.pipeline == kNoIndex ? nullptr : &plan_.pipelines[op.pipeline];
}

ChecksumKind Producer::SourceKind(const WriteOp& op) const {
  if (op.source == kNoIndex) return ChecksumKind::kNone;
  const auto* const extent = std::get_if<ExtentSource>(&plan_.sources[op.source]);
  if (extent == nullptr || extent->check == kNoIndex) return ChecksumKind::kNone;
  return plan_.source_checksums[extent->check].kind;
}

const std::byte* Producer::AsTheyAre(const WriteOp& op) const {
  if (op.source == kNoIndex || op.pipeline != kNoIndex) return nullptr;
  const std::byte* const data = gathers_[op.source].contiguous();
  return data == nullptr ? nullptr : data + op.start;
}

bool Producer::WantsLongRuns(const WriteOp& op) const {
  return op.source != kNoIndex && gathers_[op.source].contiguous() == nullptr;
}

std::uint64_t Producer::SourceBytes(const WriteOp& op, std::uint64_t begin,
                                    std::uint64_t end) const {
  const Pipeline* const pipeline = PipelineOf(op);
  if (pipeline == nullptr) return end - begin;
  const std::uint64_t elements = DivideUp(op.start + end, pipeline->out_item()) -
                                 DivideUp(op.start + begin, pipeline->out_item());
  return elements * pipeline->in_item();
}

void Producer::Hash(const WriteOp& op, std::span<const std::byte> stored, PartSums& sums) const {
  if (op.tensor == kNoIndex) return;
  if (plan_.crc32c) sums.crc32c = Crc32c(stored, sums.crc32c);
  if (plan_.crc32) sums.crc32 = Crc32(stored, sums.crc32);
}

void Producer::Produce(const WriteOp& op, std::uint64_t begin, std::span<std::byte> out,
                       Scratch& scratch, PartSums& sums) const {
  if (out.empty()) return;
  if (op.pipeline != kNoIndex) {
    const Pipeline& pipeline = late_ranges_->Get(op.pipeline, scratch.stop);
    return Convert(op, pipeline, begin, out, scratch, sums);
  }
  if (const std::byte* const data = AsTheyAre(op)) {
    return CopyMemory(op, data + begin, out, scratch.next_reader, sums);
  }
  if (op.source == kNoIndex) {
    std::memset(out.data(), 0, out.size());
  } else if (const auto* extent = std::get_if<ExtentSource>(&plan_.sources[op.source])) {
    return ReadExtent(op, *extent, op.start + begin, out, scratch, sums);
  } else {
    gathers_[op.source].Copy(op.start + begin, out);
  }
  ForTiles(out, [&](std::span<std::byte> tile) { Hash(op, tile, sums); });
}

void Producer::CopyMemory(const WriteOp& op, const std::byte* from, std::span<std::byte> out,
                          NextReader next, PartSums& sums) const {
  if (op.tensor == kNoIndex || !plan_.crc32c) {
    std::memcpy(out.data(), from, out.size());
    if (op.tensor != kNoIndex && plan_.crc32) sums.crc32 = Crc32(out, sums.crc32);
    return;
  }
  ForTiles(out, [&](std::span<std::byte> tile) {
    sums.crc32c = CopyCrc32c({from, tile.size()}, tile, sums.crc32c, next);
    if (plan_.crc32) sums.crc32 = Crc32({from, tile.size()}, sums.crc32);
    from += tile.size();
  });
}

void Producer::ReadExtent(const WriteOp& op, const ExtentSource& extent, std::uint64_t begin,
                          std::span<std::byte> out, Scratch& scratch, PartSums& sums) const {
  const Reader& reader = *readers_[extent.reader];
  std::uint64_t offset = extent.offset + begin;
  const ChecksumKind kind = SourceKind(op);
  const auto hash = [&](std::span<const std::byte> tile) {
    const bool again = kind == ChecksumKind::kCrc32c && plan_.crc32c && op.tensor != kNoIndex;
    const std::uint32_t before = sums.crc32c;
    Hash(op, tile, sums);
    // As long as the two have run over the same bytes, they are the same.
    sums.source = again && before == sums.source ? sums.crc32c : Extend(kind, sums.source, tile);
  };
  // A disk or a network wants long reads; where a disk's they could not land in
  // `out` without a bounce, in scratch first.
  const bool streams = reader.Streams();
  const bool cold = out.size() > kSubBlock && (streams || IsCold(reader, offset, out.size()));
  const bool in_place = !cold || streams || LandsWithoutBounce({&out, 1}, offset);
  const std::uint64_t most = !cold ? kSubBlock : in_place ? out.size() : kFetchBytes;
  while (!out.empty()) {
    const std::span<std::byte> chunk = out.first(std::min<std::size_t>(out.size(), most));
    std::span<std::byte> landing = chunk;
    if (!in_place) landing = scratch.Get(chunk.size(), offset);
    reader.ReadAtUnless(offset, landing, scratch.stop);
    ForTiles(chunk, [&](std::span<std::byte> tile) {
      if (!in_place) std::memcpy(tile.data(), landing.data(), tile.size());
      landing = landing.subspan(tile.size());
      hash(tile);
    });
    offset += chunk.size();
    out = out.subspan(chunk.size());
  }
}

std::uint64_t Producer::FetchElements(const WriteOp& op, const Pipeline& pipeline,
                                      std::uint64_t begin, std::uint64_t nbytes,
                                      std::uint64_t tile) const {
  if (!WantsLongRuns(op)) return tile;
  if (const auto* const extent = std::get_if<ExtentSource>(&plan_.sources[op.source])) {
    const std::uint64_t first = (op.start + begin) / pipeline.out_item() * pipeline.in_item();
    const std::uint64_t input = SourceBytes(op, begin, begin + nbytes);
    const Reader& reader = *readers_[extent->reader];
    if (!reader.Streams() && !IsCold(reader, extent->offset + first, input)) return tile;
  }
  return std::max<std::uint64_t>(1, kFetchBytes / pipeline.in_item());
}

const std::byte* Producer::Fetch(const WriteOp& op, const Pipeline& pipeline, std::uint64_t first,
                                 std::uint64_t count, Scratch& scratch) const {
  const std::uint64_t item = pipeline.in_item();
  const Gather& gather = gathers_[op.source];
  const auto* const extent = std::get_if<ExtentSource>(&plan_.sources[op.source]);
  if (extent == nullptr && gather.contiguous() != nullptr)
    return gather.contiguous() + first * item;
  const std::uint64_t begin = first * item;
  const std::uint64_t offset = extent == nullptr ? 0 : extent->offset + begin;
  const std::span<std::byte> out = scratch.Get(count * item, offset);
  if (extent == nullptr) {
    gather.Copy(begin, out);
  } else {
    readers_[extent->reader]->ReadAtUnless(offset, out, scratch.stop);
  }
  return out.data();
}

void Producer::Convert(const WriteOp& op, const Pipeline& pipeline, std::uint64_t begin,
                       std::span<std::byte> out, Scratch& scratch, PartSums& sums) const {
  const std::uint64_t in_item = pipeline.in_item();
  const std::uint64_t out_item = pipeline.out_item();
  const ChecksumKind kind = SourceKind(op);
  const std::uint64_t tile = std::max<std::uint64_t>(1, kSubBlock / std::max(in_item, out_item));
  const std::uint64_t fetch = FetchElements(op, pipeline, begin, out.size(), tile);
  std::uint64_t element = (op.start + begin) / out_item;
  std::uint64_t skip = (op.start + begin) % out_item;
  while (!out.empty()) {
    if (skip != 0 || out.size() < out_item) {
      // An element that the edge of a block or of a shard cuts.
      std::vector<std::byte> whole(out_item);
      const std::byte* const from = Fetch(op, pipeline, element, 1, scratch);
      pipeline.Run(from, whole.data(), 1);
      const std::size_t n = std::min<std::size_t>(out_item - skip, out.size());
      std::memcpy(out.data(), whole.data() + skip, n);
      if (skip == 0) sums.source = Extend(kind, sums.source, {from, in_item});
      Hash(op, out.first(n), sums);
      out = out.subspan(n);
      ++element;
      skip = 0;
      continue;
    }
    const std::uint64_t fetched = std::min(fetch, out.size() / out_item);
    const std::byte* from = Fetch(op, pipeline, element, fetched, scratch);
    for (std::uint64_t done = 0; done < fetched;) {
      const std::uint64_t n = std::min(tile, fetched - done);
      sums.source = Extend(kind, sums.source, {from, n * in_item});
      pipeline.Run(from, out.data(), n);
      Hash(op, out.first(n * out_item), sums);
      from += n * in_item;
      out = out.subspan(n * out_item);
      done += n;
    }
    element += fetched;
  }
}

}  // namespace weightlift
