// CRCs by carry-less multiplication of four lanes at once (VPCLMULQDQ): as pclmul.cc, with four
// 512-bit accumulators. What is left over goes to pclmul.cc's functions.
#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/crc_math.h"
#include "kernels/install.h"
#include "kernels/loops.h"
#include "kernels/x86/pclmul.h"

namespace weightlift::kernels {
namespace {

constexpr std::size_t kBlock = sizeof(__m512i);
constexpr std::size_t kAccumulators = 4;

// The constants that carry each lane forward by `kBytes` bytes.
template <std::uint32_t kPolynomial, std::uint64_t kBytes>
__m512i Constants() {
  constexpr auto kFold = CrcMath<kPolynomial>::FoldBy(kBytes);
  return _mm512_broadcast_i64x2(
      _mm_set_epi64x(static_cast<long long>(kFold.high), static_cast<long long>(kFold.low)));
}

__m512i Fold(__m512i accumulator, __m512i constants, __m512i next) {
  constexpr int kXor3 = 0x96;
  const __m512i low = _mm512_clmulepi64_epi128(accumulator, constants, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(accumulator, constants, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, kXor3);
}

// Four lanes into one: lanes 0 to 2 are carried to lane 3's place.
template <std::uint32_t kPolynomial>
__m128i MergeLanes(__m512i accumulator) {
  using Math = CrcMath<kPolynomial>;
  constexpr auto k48 = Math::FoldBy(48);
  constexpr auto k32 = Math::FoldBy(32);
  constexpr auto k16 = Math::FoldBy(16);
  const auto word = [](std::uint64_t value) { return static_cast<long long>(value); };
  const __m512i constants = _mm512_set_epi64(0, 0, word(k16.high), word(k16.low), word(k32.high),
                                             word(k32.low), word(k48.high), word(k48.low));
  const __m512i carried = Fold(accumulator, constants, _mm512_setzero_si512());
  const __m128i first = _mm512_extracti64x2_epi64(carried, 0);
  const __m128i second = _mm512_extracti64x2_epi64(carried, 1);
  const __m128i third = _mm512_extracti64x2_epi64(carried, 2);
  const __m128i last = _mm512_extracti64x2_epi64(accumulator, 3);
  return _mm_xor_si128(_mm_xor_si128(first, second), _mm_xor_si128(third, last));
}

// How blocks are loaded: as they are; with a copy; or with one to aligned memory, past the caches.
struct LoadOnly {
  static constexpr bool kCopies = false;
  __m512i operator()(const std::byte* from) const { return _mm512_loadu_si512(from); }
};
struct LoadAndStore {
  static constexpr bool kCopies = true;
  __m512i operator()(const std::byte* from) const {
    const __m512i block = _mm512_loadu_si512(from);
    _mm512_storeu_si512(out + (from - begin), block);
    return block;
  }
  const std::byte* begin;
  std::byte* out;
};
struct LoadAndStream {
  static constexpr bool kCopies = true;
  __m512i operator()(const std::byte* from) const {
    const __m512i block = _mm512_loadu_si512(from);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + (from - begin)), block);
    return block;
  }
  const std::byte* begin;
  std::byte* out;
};

template <std::uint32_t kPolynomial, ChecksumFn kNarrow, class Load>
std::uint32_t FoldWide(const std::byte* data, std::size_t n, std::uint32_t crc, const Load& load) {
  const auto state = static_cast<int>(~crc);
  __m512i a = _mm512_xor_si512(load(data), _mm512_zextsi128_si512(_mm_cvtsi32_si128(state)));
  __m512i b = load(data + kBlock);
  __m512i c = load(data + 2 * kBlock);
  __m512i d = load(data + 3 * kBlock);
  data += kAccumulators * kBlock;
  n -= kAccumulators * kBlock;

  const __m512i far = Constants<kPolynomial, kAccumulators * kBlock>();
  for (; n >= kAccumulators * kBlock; n -= kAccumulators * kBlock) {
    a = Fold(a, far, load(data));
    b = Fold(b, far, load(data + kBlock));
    c = Fold(c, far, load(data + 2 * kBlock));
    d = Fold(d, far, load(data + 3 * kBlock));
    data += kAccumulators * kBlock;
  }
  const __m512i near = Constants<kPolynomial, kBlock>();
  a = Fold(Fold(Fold(a, near, b), near, c), near, d);
  for (; n >= kBlock; n -= kBlock, data += kBlock) a = Fold(a, near, load(data));

  // The 16 bytes that are left stand for all before them, from a register of 0: a crc of ~0.
  std::byte left[sizeof(__m128i)];
  Store(left, MergeLanes<kPolynomial>(a));
  if constexpr (Load::kCopies) std::memcpy(load.out + (data - load.begin), data, n);
  return kNarrow(data, n, kNarrow(left, sizeof left, ~std::uint32_t{0}));
}

template <std::uint32_t kPolynomial, ChecksumFn kNarrow>
std::uint32_t CrcByWideFolding(const std::byte* data, std::size_t n, std::uint32_t crc) {
  if (n < kAccumulators * kBlock) return kNarrow(data, n, crc);
  return FoldWide<kPolynomial, kNarrow>(data, n, crc, LoadOnly{});
}

std::uint32_t CopyInOnePassCrc32c(const std::byte* src, std::byte* dst, std::size_t n,
                                  std::uint32_t crc) {
  if (n < kAccumulators * kBlock) {
    if (n != 0) std::memcpy(dst, src, n);
    return PclmulCrc32c(src, n, crc);
  }
  return FoldWide<kCrc32cPolynomial, PclmulCrc32c>(src, n, crc, LoadAndStore{src, dst});
}

std::uint32_t CopyPastCachesCrc32c(const std::byte* src, std::byte* dst, std::size_t n,
                                   std::uint32_t crc) {
  // Streamed stores are of whole cache lines.
  const std::size_t head = std::min(n, (~reinterpret_cast<std::uintptr_t>(dst) + 1) % kBlock);
  if (head != 0) {
    crc = PclmulCrc32c(src, head, crc);
    std::memcpy(dst, src, head);
    src += head;
    dst += head;
    n -= head;
  }
  if (n < kAccumulators * kBlock) return CopyInOnePassCrc32c(src, dst, n, crc);
  crc = FoldWide<kCrc32cPolynomial, PclmulCrc32c>(src, n, crc, LoadAndStream{src, dst});
  _mm_sfence();  // before anybody else is told of the copy
  return crc;
}

}  // namespace

void InstallVpclmul(KernelTable& table) {
  table.crc32c = CrcByWideFolding<kCrc32cPolynomial, PclmulCrc32c>;
  table.crc32 = CrcByWideFolding<kCrc32Polynomial, PclmulCrc32>;
  table.copy_crc32c = CopyInOnePassCrc32c;
  table.copy_past_caches_crc32c = CopyPastCachesCrc32c;
}

}  // namespace weightlift::kernels
