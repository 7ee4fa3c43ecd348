// fxpass._C: what Python needs beside the operators, which torch.ops serves.

#include <pybind11/pybind11.h>

#include "kernels/kernels.h"

void bind_memory(pybind11::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native parts of fxpass: the memory tracker and facts about the build.";
  m.def("kernel_target", [] { return fxpass::kernels::kernels().name; },
        "Name of the kernels in use: scalar, avx2, avx512 or neon.");
  bind_memory(m);
}
