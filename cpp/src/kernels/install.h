// What each instruction set adds to a table. A function is defined only where isa.cmake compiles
// its file, and may be called only where base/cpu.h says that the processor can run it.
#ifndef WEIGHTLIFT_KERNELS_INSTALL_H_
#define WEIGHTLIFT_KERNELS_INSTALL_H_

#include "kernels/dispatch.h"

namespace weightlift::kernels {

void InstallPortable(KernelTable& table);
void InstallPortableChecksums(KernelTable& table);

void InstallSse42(KernelTable& table);
void InstallPclmul(KernelTable& table);
void InstallAvx2(KernelTable& table);
void InstallAvx512(KernelTable& table);
void InstallVpclmul(KernelTable& table);

void InstallNeon(KernelTable& table);
void InstallArmCrc(KernelTable& table);

}  // namespace weightlift::kernels

#endif  // WEIGHTLIFT_KERNELS_INSTALL_H_
