// CRCs by carry-less multiplication (PCLMULQDQ), for both polynomials: four 128-bit accumulators
// are carried over the data, merged into one, and that is reduced as 16 bytes of ordinary data.
//
// After V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", Intel, 2009; the constants are computed in crc_math.h.
#include "kernels/x86/pclmul.h"

#include <wmmintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/crc_math.h"
#include "kernels/crc_streams.h"
#include "kernels/install.h"
#include "kernels/loops.h"
#include "kernels/x86/sse42_crc.h"

namespace weightlift::kernels {
namespace {

static_assert(CrcMath<kCrc32Polynomial>::FoldBy(64).low == 0x154442BD4, "as in the paper");
static_assert(CrcMath<kCrc32Polynomial>::FoldBy(64).high == 0x1C6E41596, "as in the paper");

constexpr std::size_t kBlock = sizeof(__m128i);
constexpr std::size_t kAccumulators = 4;

__m128i LoadBlock(const std::byte* p) { return Load<__m128i>(p); }

__m128i Constants(std::uint64_t low, std::uint64_t high) {
  return _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
}

// The accumulator carried forward by the distance that `constants` are for, plus what lies there.
__m128i Fold(__m128i accumulator, __m128i constants, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(accumulator, constants, 0x00);
  const __m128i high = _mm_clmulepi64_si128(accumulator, constants, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// kRest: the CRC register over what is too short to fold.
template <std::uint32_t kPolynomial, auto kRest>
std::uint32_t CrcByFolding(const std::byte* data, std::size_t n, std::uint32_t crc) {
  std::uint32_t state = ~crc;
  if (n < kAccumulators * kBlock) return ~kRest(data, n, state);

  constexpr auto kFar = CrcMath<kPolynomial>::FoldBy(kAccumulators * kBlock);
  constexpr auto kNear = CrcMath<kPolynomial>::FoldBy(kBlock);
  const __m128i far = Constants(kFar.low, kFar.high);
  const __m128i near = Constants(kNear.low, kNear.high);

  __m128i a = _mm_xor_si128(LoadBlock(data), _mm_cvtsi32_si128(static_cast<int>(state)));
  __m128i b = LoadBlock(data + kBlock);
  __m128i c = LoadBlock(data + 2 * kBlock);
  __m128i d = LoadBlock(data + 3 * kBlock);
  data += kAccumulators * kBlock;
  n -= kAccumulators * kBlock;
  for (; n >= kAccumulators * kBlock; n -= kAccumulators * kBlock) {
    a = Fold(a, far, LoadBlock(data));
    b = Fold(b, far, LoadBlock(data + kBlock));
    c = Fold(c, far, LoadBlock(data + 2 * kBlock));
    d = Fold(d, far, LoadBlock(data + 3 * kBlock));
    data += kAccumulators * kBlock;
  }
  a = Fold(Fold(Fold(a, near, b), near, c), near, d);
  for (; n >= kBlock; n -= kBlock, data += kBlock) a = Fold(a, near, LoadBlock(data));

  std::byte left[kBlock];
  Store(left, a);
  state = kRest(left, kBlock, 0);
  return ~kRest(data, n, state);
}

}  // namespace

std::uint32_t PclmulCrc32c(const std::byte* data, std::size_t n, std::uint32_t crc) {
  return CrcByFolding<kCrc32cPolynomial, CrcInOneStream<Sse42Crc32c>>(data, n, crc);
}

std::uint32_t PclmulCrc32(const std::byte* data, std::size_t n, std::uint32_t crc) {
  return CrcByFolding<kCrc32Polynomial, Crc32State>(data, n, crc);
}

void InstallPclmul(KernelTable& table) {
  table.crc32c = PclmulCrc32c;
  table.crc32 = PclmulCrc32;
}

}  // namespace weightlift::kernels
