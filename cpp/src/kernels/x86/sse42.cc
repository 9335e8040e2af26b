// SSE4.2: the crc32 instruction, which knows the polynomial of CRC-32C only; the plain loops.
#include "kernels/crc_streams.h"
#include "kernels/install.h"
#include "kernels/loops.h"
#include "kernels/x86/sse42_crc.h"

namespace weightlift::kernels {

void InstallSse42(KernelTable& table) {
  table.crc32c = CrcInThreeStreams<Sse42Crc32c>;
  InstallLoops(table);
}

}  // namespace weightlift::kernels
