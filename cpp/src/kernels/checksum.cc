#include "weightlift/checksum.h"

#include <algorithm>
#include <cstring>

#include "kernels/crc_math.h"
#include "kernels/dispatch.h"
#include "weightlift/error.h"

namespace weightlift {
namespace {

// Small enough that the copy finds the tile that was hashed still in the first-level cache.
constexpr std::size_t kCopyTile = std::size_t{16} << 10;

}  // namespace

std::uint32_t Crc32c(std::span<const std::byte> data, std::uint32_t crc) {
  return kernels::Kernels().crc32c(data.data(), data.size(), crc);
}

std::uint32_t Crc32(std::span<const std::byte> data, std::uint32_t crc) {
  return kernels::Kernels().crc32(data.data(), data.size(), crc);
}

std::uint32_t Crc32cCombine(std::uint32_t a, std::uint32_t b, std::uint64_t b_length) noexcept {
  using Math = kernels::CrcMath<kernels::kCrc32cPolynomial>;
  return Math::Multiply(Math::BytePower(b_length), a) ^ b;
}

std::uint32_t Crc32Combine(std::uint32_t a, std::uint32_t b, std::uint64_t b_length) noexcept {
  using Math = kernels::CrcMath<kernels::kCrc32Polynomial>;
  return Math::Multiply(Math::BytePower(b_length), a) ^ b;
}

std::uint32_t CopyCrc32c(std::span<const std::byte> src, std::span<std::byte> dst,
                         std::uint32_t crc, NextReader next) {
  if (src.size() != dst.size()) {
    throw Error(ErrorCode::kInvalidArgument, "CopyCrc32c: source and destination differ in size");
  }
  const kernels::KernelTable& kernels = kernels::Kernels();
  if (next == NextReader::kDevice && kernels.copy_past_caches_crc32c != nullptr) {
    return kernels.copy_past_caches_crc32c(src.data(), dst.data(), src.size(), crc);
  }
  if (kernels.copy_crc32c != nullptr) {
    return kernels.copy_crc32c(src.data(), dst.data(), src.size(), crc);
  }
  const auto hash = kernels.crc32c;
  for (std::size_t begin = 0; begin < src.size(); begin += kCopyTile) {
    const std::size_t n = std::min(kCopyTile, src.size() - begin);
    crc = hash(src.data() + begin, n, crc);
    std::memcpy(dst.data() + begin, src.data() + begin, n);
  }
  return crc;
}

}  // namespace weightlift
