#include "weightlift/checksum.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "check.h"
#include "isas.h"

using namespace weightlift;

namespace {

using Bytes = std::span<const std::byte>;

Bytes AsBytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

// One bit at a time, as the definition has it.
std::uint32_t BitByBit(std::uint32_t polynomial, Bytes data, std::uint32_t crc) {
  std::uint32_t state = ~crc;
  for (const std::byte byte : data) {
    state ^= std::to_integer<std::uint32_t>(byte);
    for (int i = 0; i < 8; ++i) state = (state >> 1) ^ ((state & 1) != 0 ? polynomial : 0);
  }
  return ~state;
}

struct Crc {
  std::uint32_t polynomial;
  std::uint32_t (*checksum)(Bytes, std::uint32_t);
  std::uint32_t (*combine)(std::uint32_t, std::uint32_t, std::uint64_t) noexcept;
};

constexpr Crc kCrcs[] = {{0x82F63B78, Crc32c, Crc32cCombine}, {0xEDB88320, Crc32, Crc32Combine}};

}  // namespace

TEST(KnownValues) {
  check::OnEveryIsa([] {
    CHECK_EQ(Crc32c(AsBytes("123456789")), 0xE3069283U);
    CHECK_EQ(Crc32(AsBytes("123456789")), 0xCBF43926U);
    CHECK_EQ(Crc32c(std::vector<std::byte>(32)), 0x8A9136AAU);  // RFC 3720, B.4
    CHECK_EQ(Crc32c(std::vector<std::byte>(32, std::byte{0xFF})), 0x62A8AB43U);
    CHECK_EQ(Crc32c({}), 0U);
    CHECK_EQ(Crc32({}, 77), 77U);
  });
}

TEST(EveryLengthAndAlignment) {
  const std::vector<std::byte> data = check::RandomBytes(5000, 1);
  for (const Crc& crc : kCrcs) {
    std::vector<std::uint32_t> expected = {0xABCD};
    for (const std::byte byte : data) {
      expected.push_back(BitByBit(crc.polynomial, {&byte, 1}, expected.back()));
    }
    check::OnEveryIsa([&] {
      for (std::size_t n = 0; n <= data.size(); n += n < 1200 ? 1 : 97) {
        // At the very end of an allocation, so that a sanitizer sees reading too far.
        const std::vector<std::byte> exact(data.begin(), data.begin() + static_cast<long>(n));
        CHECK_EQ(crc.checksum(exact, 0xABCD), expected[n]);
      }
      for (std::size_t offset = 1; offset < 70; ++offset) {
        const Bytes piece = Bytes(data).subspan(offset, 1025);
        CHECK_EQ(crc.checksum(piece, 0), BitByBit(crc.polynomial, piece, 0));
      }
    });
  }
}

TEST(PiecesGiveTheWhole) {
  const std::vector<std::byte> data = check::RandomBytes(100'000, 2);
  for (const Crc& crc : kCrcs) {
    const std::uint32_t whole = BitByBit(crc.polynomial, data, 0);
    check::OnEveryIsa([&] {
      CHECK_EQ(crc.checksum(data, 0), whole);
      for (const std::size_t cut : {0UL, 1UL, 4096UL, 65'537UL, 99'999UL, 100'000UL}) {
        const Bytes a = Bytes(data).first(cut);
        const Bytes b = Bytes(data).subspan(cut);
        CHECK_EQ(crc.checksum(b, crc.checksum(a, 0)), whole);
        CHECK_EQ(crc.combine(crc.checksum(a, 0), crc.checksum(b, 0), b.size()), whole);
      }
    });
  }
}

TEST(CombineOfHugeLengths) {
  // Zero bytes come back to the same value after as many as the polynomial's period.
  CHECK_EQ(Crc32Combine(0xDEADBEEF, 0, 0xFFFFFFFF), 0xDEADBEEFU);
  CHECK_EQ(Crc32Combine(0xDEADBEEF, 0, std::uint64_t{0xFFFFFFFF} << 32), 0xDEADBEEFU);
  CHECK_EQ(Crc32cCombine(0xDEADBEEF, 0, 0x7FFFFFFF), 0xDEADBEEFU);
  CHECK_EQ(Crc32cCombine(0xDEADBEEF, 0x55, 0), 0xDEADBEEFU ^ 0x55U);
}

TEST(CopyGivesCopyAndChecksum) {
  check::OnEveryIsa([] {
    for (const std::size_t n : {0UL, 1UL, 100UL, 16'384UL, 16'385UL, 300'001UL}) {
      const std::vector<std::byte> source = check::RandomBytes(n, 3);
      std::vector<std::byte> copy(n);
      CHECK_EQ(CopyCrc32c(source, copy, 5), Crc32c(source, 5));
      CHECK(copy == source);
    }
  });
}

TEST(CopyPastTheCachesGivesTheSame) {
  check::OnEveryIsa([] {
    for (const std::size_t n : {0UL, 1UL, 63UL, 64UL, 255UL, 256UL, 257UL, 4'095UL, 300'001UL}) {
      const std::vector<std::byte> source = check::RandomBytes(n + 5, 3);
      for (const std::size_t skew : {0UL, 1UL, 16UL, 63UL, 64UL}) {
        for (const std::size_t from : {0UL, 5UL}) {
          const std::span<const std::byte> bytes = std::span(source).subspan(from, n);
          std::vector<std::byte> copy(skew + n + 1, std::byte{0xA5});
          const std::span<std::byte> to = std::span(copy).subspan(skew, n);
          CHECK_EQ(CopyCrc32c(bytes, to, 5, NextReader::kDevice), Crc32c(bytes, 5));
          CHECK(std::equal(to.begin(), to.end(), bytes.begin()));
          CHECK(copy.back() == std::byte{0xA5});
          CHECK(skew == 0 || copy[skew - 1] == std::byte{0xA5});
        }
      }
    }
  });
}

TEST(CopyRefusesUnequalSizes) {
  const std::vector<std::byte> source(10);
  std::vector<std::byte> shorter(9);
  CHECK_THROWS(kInvalidArgument, CopyCrc32c(source, shorter));
}

TEST(UnknownInstructionSetIsRefused) {
  const std::string_view before = ActiveIsa();
  CHECK_THROWS(kInvalidArgument, (SetIsa("mmx"), 0));
  CHECK_EQ(ActiveIsa(), before);
  CHECK_EQ(AvailableIsas().front(), std::string_view("portable"));
}
