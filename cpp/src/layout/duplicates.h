// Finding a name that is there twice, in linear time whatever the names are.
#ifndef WEIGHTLIFT_LAYOUT_DUPLICATES_H_
#define WEIGHTLIFT_LAYOUT_DUPLICATES_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "weightlift/error.h"

namespace weightlift {

struct HashKey {
  std::uint64_t first;
  std::uint64_t second;
};

// A 64-bit hash of a name, all bits of it mixed under any key.
std::uint64_t HashName(std::string_view name, const HashKey& key) noexcept;

// The same under a key drawn at random once a process, so that nobody can prepare a file whose
// names collide.
std::uint64_t HashName(std::string_view name) noexcept;

// An entry of FindDuplicate's open hash table.
struct NameSlot {
  static constexpr std::uint32_t kFree = 0xFFFFFFFF;
  std::uint32_t index = kFree;
  std::uint32_t tag = 0;  // upper half of the hash
};

// The first index whose name an earlier index has, of `name_of(0)` to `name_of(count - 1)`.
template <typename NameOf>
std::optional<std::size_t> FindDuplicate(std::size_t count, const NameOf& name_of) {
  if (count < 2) return std::nullopt;
  if (count > (std::uint32_t{1} << 31))
    throw Error(ErrorCode::kUnsupported, "more than 2^31 names");
  std::vector<NameSlot> slots(std::bit_ceil(count * 2));
  const std::size_t mask = slots.size() - 1;
  // The table of many names is larger than the caches: a batch's slots are fetched while its other
  // names are hashed.
  std::array<std::uint64_t, 32> hashes;
  for (std::size_t first = 0; first < count; first += hashes.size()) {
    const std::size_t last = std::min(count, first + hashes.size());
    for (std::size_t i = first; i < last; ++i) {
      hashes[i - first] = HashName(name_of(i));
      __builtin_prefetch(&slots[static_cast<std::size_t>(hashes[i - first]) & mask], 1);
    }
    for (std::size_t i = first; i < last; ++i) {
      const std::uint64_t hash = hashes[i - first];
      const auto tag = static_cast<std::uint32_t>(hash >> 32);
      std::size_t at = static_cast<std::size_t>(hash) & mask;
      for (; slots[at].index != NameSlot::kFree; at = (at + 1) & mask) {
        if (slots[at].tag == tag && name_of(slots[at].index) == name_of(i)) return i;
      }
      slots[at] = {static_cast<std::uint32_t>(i), tag};
    }
  }
  return std::nullopt;
}

}  // namespace weightlift

#endif  // WEIGHTLIFT_LAYOUT_DUPLICATES_H_
