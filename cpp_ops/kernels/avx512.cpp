// The AVX-512 target: its vectors are in lanes_avx512.h and pool_lanes_avx512.h.
#include "target-inl.h"
#include "targets.h"

namespace fxpass::kernels {

const Kernels& avx512_kernels() {
  static const Kernels table = make_table("avx512");
  return table;
}

}  // namespace fxpass::kernels
