// fxpass._C.memory: the counter of cpp_ops/memory for Python. See fxpass/memory.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "memory/tracker.h"

namespace py = pybind11;

namespace {

using TimelineList = std::vector<std::pair<std::int64_t, std::int64_t>>;

TimelineList as_pairs(const std::vector<fxpass::memory::Event>& events) {
  TimelineList pairs;
  pairs.reserve(events.size());
  for (const auto& event : events) pairs.emplace_back(event.nanoseconds, event.bytes);
  return pairs;
}

}  // namespace

void bind_memory(py::module_& module) {
  namespace memory = fxpass::memory;
  py::module_ m = module.def_submodule("memory", "Exact counting of torch's CPU allocator.");
  m.def("install", &memory::install);
  m.def("live_bytes", &memory::live_bytes);
  m.def("begin", &memory::begin, py::arg("record_timeline"));
  m.def("live", &memory::live, py::arg("tracker"));
  m.def("peak", &memory::peak, py::arg("tracker"));
  m.def("reset_peak", &memory::reset_peak, py::arg("tracker"));
  m.def(
      "timeline", [](memory::TrackerId id) { return as_pairs(memory::timeline(id)); },
      py::arg("tracker"), "(nanoseconds since the start, bytes above the start) of every event");
  m.def(
      "end",
      [](memory::TrackerId id) {
        const memory::Reading reading = memory::end(id);
        return py::make_tuple(reading.live, reading.peak, as_pairs(reading.timeline));
      },
      py::arg("tracker"), "(live bytes, peak bytes, timeline); the tracker is closed");
}
