// The NEON target: its vectors are in lanes_neon.h and pool_lanes_neon.h.
#include "target-inl.h"
#include "targets.h"

namespace fxpass::kernels {

const Kernels& neon_kernels() {
  static const Kernels table = make_table("neon");
  return table;
}

}  // namespace fxpass::kernels
