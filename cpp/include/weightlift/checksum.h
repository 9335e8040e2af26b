// CRC-32C (Castagnoli; RFC 3720) and CRC-32 (ISO-HDLC; zip, gzip), at memory speed.
//
// Both take and return the finished value (as zlib's crc32 does), so `Crc32c(b, Crc32c(a))` is the
// checksum of a followed by b, and 0 starts a new one. All functions are pure and thread-safe;
// those that read data throw only what ActiveIsa (isa.h) throws.
#ifndef WEIGHTLIFT_CHECKSUM_H_
#define WEIGHTLIFT_CHECKSUM_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace weightlift {

std::uint32_t Crc32c(std::span<const std::byte> data, std::uint32_t crc = 0);
std::uint32_t Crc32(std::span<const std::byte> data, std::uint32_t crc = 0);

// The checksum of a followed by b from crc(a), crc(b) and b's length, in O(log length): pieces
// hashed in parallel give the checksum of the whole.
std::uint32_t Crc32cCombine(std::uint32_t a, std::uint32_t b, std::uint64_t b_length) noexcept;
std::uint32_t Crc32Combine(std::uint32_t a, std::uint32_t b, std::uint64_t b_length) noexcept;

// Who reads a copy next.
enum class NextReader : std::uint8_t {
  kProcessor,  // soon: the copy stays in cache
  kDevice,     // by direct memory access: where the processor can, the copy goes past its caches
};

// Copies src to dst (no overlap) and returns the CRC-32C of the bytes, in one pass over cache-sized
// tiles. Throws Error(kInvalidArgument) when the sizes differ.
std::uint32_t CopyCrc32c(std::span<const std::byte> src, std::span<std::byte> dst,
                         std::uint32_t crc = 0, NextReader next = NextReader::kProcessor);

}  // namespace weightlift

#endif  // WEIGHTLIFT_CHECKSUM_H_
