// fxpass._C.paging: what cpp_ops/paging counts and measures. See fxpass/paging.py.
#include <pybind11/pybind11.h>

#include <string>

#include "paging/bandwidth.h"
#include "paging/stores.h"

namespace py = pybind11;

void bind_paging(py::module_& module) {
  namespace paging = fxpass::paging;
  py::module_ m = module.def_submodule("paging", "Values that backward needs, in files.");
  m.def(
      "counters",
      [](const std::string& directory) {
        const auto now = paging::store_in(directory)->counters();
        return py::make_tuple(now.pages, now.pages_now, now.pages_read, now.pages_read_ahead,
                              now.written_bytes, now.read_bytes, now.buffer_bytes_now,
                              now.file_bytes);
      },
      py::arg("directory"), "See paging/store.h: Counters.");
  m.def(
      "measure",
      [](const std::string& directory) {
        paging::Bandwidth found{};
        {
          const py::gil_scoped_release others_may_run;
          found = paging::measure(directory);
        }
        return py::make_tuple(found.write, found.read);
      },
      py::arg("directory"), "(write, read) in bytes a second.");
}
