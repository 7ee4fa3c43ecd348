// fxpass._C: what Python needs beside the operators, which torch.ops serves.

#include <pybind11/pybind11.h>

void bind_memory(pybind11::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native parts of fxpass: the memory tracker.";
  bind_memory(m);
}
