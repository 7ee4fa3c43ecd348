// fxpass._C: what Python needs beside the operators, which torch.ops serves.

#include <pybind11/pybind11.h>

#include "op_version.h"

void bind_memory(pybind11::module_& m);
void bind_paging(pybind11::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native parts of fxpass: the memory tracker, the paging, the operators' version.";
  m.attr("OP_VERSION") = fxpass::kOpVersion;
  bind_memory(m);
  bind_paging(m);
}
