// fxpass._C.memory: the counter of cpp_ops/memory for Python. See fxpass/memory.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <utility>
#include <vector>

#include "memory/part.h"
#include "memory/tracker.h"

namespace py = pybind11;

namespace {

using Row = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::uint64_t, std::int32_t, int>;

std::vector<Row> as_rows(const std::vector<fxpass::memory::Event>& events) {
  std::vector<Row> rows;
  rows.reserve(events.size());
  for (const auto& e : events) {
    rows.emplace_back(e.nanoseconds, e.live, e.delta, e.address, e.part.number,
                      static_cast<int>(e.part.use));
  }
  return rows;
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
      "timeline", [](memory::TrackerId id) { return as_rows(memory::timeline(id)); },
      py::arg("tracker"),
      "(nanoseconds since the start, live bytes above it, delta, address, part, use) of every "
      "event");
  m.def("events", &memory::events, py::arg("tracker"), "How many events the timeline has.");
  m.def(
      "end",
      [](memory::TrackerId id) {
        const memory::Reading reading = memory::end(id);
        return py::make_tuple(reading.live, reading.peak, as_rows(reading.timeline));
      },
      py::arg("tracker"), "(live bytes, peak bytes, timeline); the tracker is closed");
  m.def(
      "set_part", [](std::int32_t number) { memory::set_part({number, memory::Use::Tensor}); },
      py::arg("number"), "Says which part of a model this thread computes from now on; 0: none.");
  m.def("begin_restore_times", &memory::begin_restore_times);
  m.def(
      "end_restore_times",
      [] {
        std::vector<std::pair<std::int32_t, std::int64_t>> pairs;
        for (const auto& r : memory::end_restore_times()) pairs.emplace_back(r.part, r.nanoseconds);
        return pairs;
      },
      "(part, nanoseconds) of every value restored since begin_restore_times()");
}
