#include "layout/duplicates.h"

#include <cstring>
#include <random>

namespace weightlift {
namespace {

HashKey DrawKey() {
  std::random_device device;
  const auto draw = [&device] {
    return static_cast<std::uint64_t>(device()) << 32 | static_cast<std::uint64_t>(device());
  };
  return {draw(), draw()};
}

// The two halves of the 128-bit product, folded together: one multiplication mixes all bits.
std::uint64_t Fold(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

}  // namespace

std::uint64_t HashName(std::string_view name, const HashKey& key) noexcept {
  // Not yet mixed with the key: what follows does, and would undo it, leaving short names unmixed.
  std::uint64_t hash = name.size();
  const char* p = name.data();
  std::size_t left = name.size();
  std::uint64_t word;
  for (; left >= sizeof word; p += sizeof word, left -= sizeof word) {
    std::memcpy(&word, p, sizeof word);
    hash = Fold(word ^ key.first, hash ^ key.second);
  }
  word = 0;
  if (left != 0) std::memcpy(&word, p, left);
  hash = Fold(word ^ key.first, hash ^ key.second);
  // Once more: names of one word have met one multiplication by one number, and of a hundred such
  // numbers one is poor, so that names crowd in a table.
  return Fold(hash ^ key.second, key.first | 1);
}

std::uint64_t HashName(std::string_view name) noexcept {
  static const HashKey key = DrawKey();
  return HashName(name, key);
}

}  // namespace weightlift
