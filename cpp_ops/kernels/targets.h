// The tables the targets export to dispatch.cpp. Which of them are compiled is CMake's choice, by
// processor; whether the CPU can run one is asked before its function is called.
#pragma once

#include "kernels.h"

namespace fxpass::kernels {

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
// AVX-512 with the 16-bit compress and expand instructions of VBMI2.
const Kernels& avx512_vbmi2_kernels();
const Kernels& neon_kernels();

}  // namespace fxpass::kernels
