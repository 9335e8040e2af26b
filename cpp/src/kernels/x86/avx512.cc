#include "kernels/install.h"
#include "kernels/loops.h"
namespace weightlift::kernels {
void InstallAvx512(KernelTable& table) { InstallLoops(table); }
}  // namespace weightlift::kernels
