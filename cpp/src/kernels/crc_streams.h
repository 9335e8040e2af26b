// CRCs by an instruction that takes eight bytes: three streams at a time hide its latency.
//
// For the files of instruction sets; unnamed namespace: see small_float.h.
#ifndef WEIGHTLIFT_KERNELS_CRC_STREAMS_H_
#define WEIGHTLIFT_KERNELS_CRC_STREAMS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/crc_math.h"
#include "kernels/loops.h"

namespace weightlift::kernels {
namespace {

// Bytes of one stream between two merges of the three.
inline constexpr std::size_t kCrcStream = 1024;

// table[i][b]: byte i of a CRC register, with value b, after kCrcStream zero bytes.
template <std::uint32_t kPolynomial>
inline constexpr auto kStreamShift = [] {
  using Math = CrcMath<kPolynomial>;
  constexpr std::uint32_t kPower = Math::BytePower(kCrcStream);
  std::array<std::array<std::uint32_t, 256>, 4> table{};
  for (std::uint32_t i = 0; i < 4; ++i) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      table[i][byte] = Math::Multiply(kPower, byte << (8 * i));
    }
  }
  return table;
}();

template <std::uint32_t kPolynomial>
std::uint32_t ShiftByStream(std::uint32_t state) {
  constexpr auto& kTable = kStreamShift<kPolynomial>;
  return kTable[0][state & 0xFF] ^ kTable[1][(state >> 8) & 0xFF] ^
         kTable[2][(state >> 16) & 0xFF] ^ kTable[3][state >> 24];
}

// The CRC register after n more bytes, in one stream.
template <class Instruction>
std::uint32_t CrcInOneStream(const std::byte* data, std::size_t n, std::uint32_t state) {
  for (; n >= 8; n -= 8, data += 8) state = Instruction::Add8(state, Load<std::uint64_t>(data));
  for (; n > 0; --n, ++data) state = Instruction::Add1(state, std::to_integer<std::uint8_t>(*data));
  return state;
}

// Instruction: kPolynomial, Add8(register, eight bytes) and Add1(register, byte).
template <class Instruction>
std::uint32_t CrcInThreeStreams(const std::byte* data, std::size_t n, std::uint32_t crc) {
  constexpr std::uint32_t kPolynomial = Instruction::kPolynomial;
  std::uint32_t state = ~crc;
  for (; n >= 3 * kCrcStream; n -= 3 * kCrcStream, data += 3 * kCrcStream) {
    std::uint32_t second = 0;
    std::uint32_t third = 0;
    for (std::size_t i = 0; i < kCrcStream; i += 8) {
      state = Instruction::Add8(state, Load<std::uint64_t>(data + i));
      second = Instruction::Add8(second, Load<std::uint64_t>(data + kCrcStream + i));
      third = Instruction::Add8(third, Load<std::uint64_t>(data + 2 * kCrcStream + i));
    }
    state = ShiftByStream<kPolynomial>(state) ^ second;
    state = ShiftByStream<kPolynomial>(state) ^ third;
  }
  return ~CrcInOneStream<Instruction>(data, n, state);
}

}  // namespace
}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_CRC_STREAMS_H_
