// CRCs by carry-less multiplication, 128 bits at a time: for processors with PCLMULQDQ and SSE4.2.
#ifndef WEIGHTLIFT_KERNELS_X86_PCLMUL_H_
#define WEIGHTLIFT_KERNELS_X86_PCLMUL_H_

#include <cstddef>
#include <cstdint>

namespace weightlift::kernels {

std::uint32_t PclmulCrc32c(const std::byte* data, std::size_t n, std::uint32_t crc);
std::uint32_t PclmulCrc32(const std::byte* data, std::size_t n, std::uint32_t crc);

}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_X86_PCLMUL_H_
