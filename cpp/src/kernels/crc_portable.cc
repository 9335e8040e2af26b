// CRCs by tables, sixteen bytes a step.
#include <array>
#include <bit>
#include <cstring>

#include "kernels/crc_math.h"
#include "kernels/install.h"

namespace weightlift::kernels {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the kernels read and write little-endian memory");

using Tables = std::array<std::array<std::uint32_t, 256>, 16>;

alignas(64) constexpr Tables kCrc32cTables = CrcMath<kCrc32cPolynomial>::MakeTables();
alignas(64) constexpr Tables kCrc32Tables = CrcMath<kCrc32Polynomial>::MakeTables();

std::uint32_t LoadWord(const std::byte* p) {
  std::uint32_t word = 0;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// The CRC state of the four bytes of `word`, of which `after` bytes of zeros follow.
std::uint32_t SliceWord(const Tables& tables, std::uint32_t word, std::size_t after) {
  return tables[after + 3][word & 0xFF] ^ tables[after + 2][(word >> 8) & 0xFF] ^
         tables[after + 1][(word >> 16) & 0xFF] ^ tables[after][word >> 24];
}

std::uint32_t Slice(const Tables& tables, const std::byte* data, std::size_t n,
                    std::uint32_t state) {
  for (; n >= 16; n -= 16, data += 16) {
    state = SliceWord(tables, LoadWord(data) ^ state, 12) ^
            SliceWord(tables, LoadWord(data + 4), 8) ^ SliceWord(tables, LoadWord(data + 8), 4) ^
            SliceWord(tables, LoadWord(data + 12), 0);
  }
  for (; n > 0; --n, ++data) {
    state = (state >> 8) ^ tables[0][(state ^ std::to_integer<std::uint32_t>(*data)) & 0xFF];
  }
  return state;
}

std::uint32_t Crc32cByTables(const std::byte* data, std::size_t n, std::uint32_t crc) {
  return ~Crc32cState(data, n, ~crc);
}

std::uint32_t Crc32ByTables(const std::byte* data, std::size_t n, std::uint32_t crc) {
  return ~Crc32State(data, n, ~crc);
}

}  // namespace

std::uint32_t Crc32cState(const std::byte* data, std::size_t n, std::uint32_t state) noexcept {
  return Slice(kCrc32cTables, data, n, state);
}

std::uint32_t Crc32State(const std::byte* data, std::size_t n, std::uint32_t state) noexcept {
  return Slice(kCrc32Tables, data, n, state);
}

void InstallPortableChecksums(KernelTable& table) {
  table.crc32c = Crc32cByTables;
  table.crc32 = Crc32ByTables;
}

}  // namespace weightlift::kernels
