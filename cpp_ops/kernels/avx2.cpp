// The AVX2 target: its vectors are in lanes_avx2.h and pool_lanes_avx2.h.
#include "target-inl.h"
#include "targets.h"

namespace fxpass::kernels {

const Kernels& avx2_kernels() {
  static const Kernels table = make_table("avx2");
  return table;
}

}  // namespace fxpass::kernels
