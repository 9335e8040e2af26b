#include "weightlift/reader.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

class SpanSink final : public StreamSink {
 public:
  SpanSink(std::span<std::byte> out, const StopPredicate& stop) : left_(out), stop_(stop) {}
  std::span<std::byte> Room() override { return left_; }
  void Filled(std::size_t nbytes) override { left_ = left_.subspan(nbytes); }
  bool Stopped() override { return stop_ && stop_(); }

 private:
  std::span<std::byte> left_;
  const StopPredicate& stop_;
};

}  // namespace

void StreamSink::Put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<std::byte> room = Room();
    const std::size_t n = std::min(room.size(), bytes.size());
    std::memcpy(room.data(), bytes.data(), n);
    bytes = bytes.subspan(n);
    Filled(n);
  }
}

void CheckRange(const Reader& reader, std::uint64_t offset, std::uint64_t nbytes) {
  if (FitsInside(offset, nbytes, reader.size())) return;
  const std::uint64_t end = CheckedAdd(offset, nbytes).value_or(UINT64_MAX);
  throw Error(ErrorCode::kTruncated,
              "the file ends at byte " + std::to_string(reader.size()) + ", before the " +
                  std::to_string(nbytes) + " bytes wanted",
              {.path = reader.name(), .begin = offset, .end = end});
}

void Reader::ReadScatter(std::uint64_t offset, std::span<const std::span<std::byte>> outs) const {
  for (const std::span<std::byte> out : outs) {
    ReadAt(offset, out);
    offset += out.size();
  }
}

void Reader::ReadAtUnless(std::uint64_t offset, std::span<std::byte> out,
                          const StopPredicate& stop) const {
  if (!Streams()) return ReadAt(offset, out);
  SpanSink sink(out, stop);
  ReadStream(offset, out.size(), sink);
}

void Reader::ReadStream(std::uint64_t offset, std::uint64_t nbytes, StreamSink& sink) const {
  while (nbytes > 0) {
    if (sink.Stopped()) throw Error(ErrorCode::kCancelled, "stopped", {.path = name()});
    std::span<std::byte> room = sink.Room();
    room = room.first(static_cast<std::size_t>(std::min<std::uint64_t>(room.size(), nbytes)));
    ReadAt(offset, room);
    sink.Filled(room.size());
    offset += room.size();
    nbytes -= room.size();
  }
}

}  // namespace weightlift
