// Where the bytes of a sub-block land, as they are read.
#ifndef WEIGHTLIFT_PLAN_LANDING_H_
#define WEIGHTLIFT_PLAN_LANDING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "weightlift/buffer.h"

namespace weightlift {

// The part of one op that is in the sub-block at hand.
struct ReadPart {
  std::size_t op;               // in file order
  std::uint64_t offset;         // in the file
  std::span<std::byte> stored;  // where its bytes land
  std::byte* copy_to;           // where they are copied then; nullptr: nowhere
  std::size_t hashed = 0;       // so many of them are in the checksum already

  std::uint64_t end() const { return offset + stored.size(); }
};

// What a thread has at hand.
struct ReadWorker {
  std::shared_ptr<Buffer> memory;
  std::vector<ReadPart> parts;
  // Where a sub-block lands; what is adjacent in memory is one.
  std::vector<std::span<std::byte>> outs;

  // Scratch for [begin, end) of the file: congruent to it, so that direct reads need no copy. Stays
  // where it is as long as the range is the same.
  std::span<std::byte> Scratch(std::uint64_t begin, std::uint64_t end) {
    constexpr std::uint64_t kPage = 4096;
    const std::uint64_t skip = begin % kPage;
    if (!memory || memory->bytes().size() < skip + (end - begin)) {
      memory = Buffer::Allocate(kPage + (end - begin));
    }
    return memory->bytes().subspan(skip, end - begin);
  }

  void Land(std::span<std::byte> out) {
    if (!outs.empty() && outs.back().data() + outs.back().size() == out.data()) {
      outs.back() = {outs.back().data(), outs.back().size() + out.size()};
    } else {
      outs.push_back(out);
    }
  }
};

}  // namespace weightlift

#endif  // WEIGHTLIFT_PLAN_LANDING_H_
