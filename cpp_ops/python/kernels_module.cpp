// fxpass._kernels: every target's kernels for tests and benchmarks, on addresses given as integers.
// Nothing here checks sizes: this is the C++ contract of kernels.h, not an API for users.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace py = pybind11;

namespace {

using fxpass::kernels::Affine;
using fxpass::kernels::DType;
using fxpass::kernels::Kernels;
using fxpass::kernels::Planes;
using fxpass::kernels::Pool2d;
using fxpass::kernels::Run;

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (const char* name : {"scalar", "avx2", "avx512", "neon"}) {
    if (fxpass::kernels::kernels_for(name) != nullptr) names.emplace_back(name);
  }
  return names;
}

const Kernels& get(const std::string& target) {
  if (const Kernels* found = fxpass::kernels::kernels_for(target.c_str())) return *found;
  std::string known;
  for (const std::string& name : targets()) known += (known.empty() ? "" : ", ") + name;
  throw py::value_error("no target \"" + target + "\"; this CPU runs: " + known);
}

using Forward = decltype(Kernels::max_pool2d_nchw);
using Backward = decltype(Kernels::max_pool2d_nchw_backward);

template <Forward Kernels::*kMember>
void forward(const Kernels& k, DType dtype, const Pool2d& pool, Address x, Address out,
             Address codes, std::int64_t begin, std::int64_t end) {
  (k.*kMember)(dtype, pool, at<void>(x), at<void>(out), at<std::uint8_t>(codes), begin, end);
}

// All images (NCHW: planes) of a tensor, one after the other.
template <Backward Kernels::*kMember>
void backward(const Kernels& k, DType dtype, const Pool2d& pool, Address grad_out, Address codes,
              Address grad_in, std::int64_t images) {
  const std::int64_t outputs = pool.out_h * pool.out_w * pool.channels;
  const std::int64_t inputs = pool.in_h * pool.in_w * pool.channels;
  const int bytes = fxpass::kernels::element_size(dtype);
  for (std::int64_t i = 0; i < images; ++i) {
    (k.*kMember)(dtype, pool, at<std::uint8_t>(grad_out) + i * outputs * bytes,
                 at<std::uint8_t>(codes) + i * outputs,
                 at<std::uint8_t>(grad_in) + i * inputs * bytes);
  }
}

void bind_pools(py::class_<Kernels>& cls) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  cls.def("max_pool2d_nchw", &forward<&Kernels::max_pool2d_nchw>, unlocked)
      .def("max_pool2d_nhwc", &forward<&Kernels::max_pool2d_nhwc>, unlocked)
      .def("max_pool2d_nchw_backward", &backward<&Kernels::max_pool2d_nchw_backward>, unlocked)
      .def("max_pool2d_nhwc_backward", &backward<&Kernels::max_pool2d_nhwc_backward>, unlocked);
}

void bind_batch_norms(py::class_<Kernels>& cls) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  cls.def(
         "affine",
         [](const Kernels& k, DType dtype, const Affine& f, Address x, Address y,
            std::int64_t begin,
            std::int64_t end) { k.affine(dtype, f, at<void>(x), at<void>(y), begin, end); },
         unlocked)
      .def(
          "affine_relu",
          [](const Kernels& k, DType dtype, const Affine& f, Address x, Address y,
             std::int64_t begin, std::int64_t end, Address mask) {
            return k.affine_relu(dtype, f, at<void>(x), at<void>(y), begin, end,
                                 at<std::uint64_t>(mask));
          },
          unlocked)
      .def(
          "batch_norm_stats_nchw",
          [](const Kernels& k, DType dtype, const Planes& p, Address x, std::int64_t first,
             std::int64_t last, Address mean, Address var_sum) {
            k.batch_norm_stats_nchw(dtype, p, at<void>(x), first, last, at<void>(mean),
                                    at<void>(var_sum));
          },
          unlocked);
}

void bind_kernels(py::class_<Kernels>& cls) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  cls.def_readonly("name", &Kernels::name)
      .def(
          "bitmap_mark",
          [](const Kernels& k, DType dtype, Address src, std::int64_t n, Address bits) {
            return k.bitmap_mark(dtype, at<void>(src), n, at<std::uint64_t>(bits));
          },
          unlocked)
      .def(
          "bitmap_gather",
          [](const Kernels& k, DType dtype, Address src, Address bits, std::int64_t n,
             Address values) {
            k.bitmap_gather(dtype, at<void>(src), at<std::uint64_t>(bits), n, at<void>(values));
          },
          unlocked)
      .def(
          "bitmap_pack",
          [](const Kernels& k, DType dtype, Address src, std::int64_t n, Address bits,
             Address values) {
            return k.bitmap_pack(dtype, at<void>(src), n, at<std::uint64_t>(bits),
                                 at<void>(values));
          },
          unlocked)
      .def(
          "bitmap_unpack",
          [](const Kernels& k, DType dtype, Address bits, std::int64_t n, Address values,
             Address dst) {
            k.bitmap_unpack(dtype, at<std::uint64_t>(bits), n, at<void>(values), at<void>(dst));
          },
          unlocked)
      .def(
          "relu_mask",
          [](const Kernels& k, DType dtype, Address x, Address y, std::int64_t n, Address mask) {
            return k.relu_mask(dtype, at<void>(x), at<void>(y), n, at<std::uint64_t>(mask));
          },
          unlocked)
      .def(
          "select",
          [](const Kernels& k, DType dtype, Address grad, Address mask, std::int64_t n,
             Address out) {
            k.select(dtype, at<void>(grad), at<std::uint64_t>(mask), n, at<void>(out));
          },
          unlocked)
      .def(
          "runs_mask",
          [](const Kernels& k, DType dtype, const std::array<std::array<std::uint64_t, 2>, 2>& runs,
             Address x, std::int64_t n, Address mask) {
            const Run both[] = {{runs[0][0], runs[0][1]}, {runs[1][0], runs[1][1]}};
            return k.runs_mask(dtype, both, at<void>(x), n, at<std::uint64_t>(mask));
          },
          unlocked)
      .def(
          "codes_pack",
          [](const Kernels& k, Address codes, std::int64_t n, int width, Address words) {
            k.codes_pack(at<std::uint8_t>(codes), n, width, at<std::uint64_t>(words));
          },
          unlocked)
      .def(
          "codes_unpack",
          [](const Kernels& k, Address words, std::int64_t begin, std::int64_t n, int width,
             Address codes) {
            k.codes_unpack(at<std::uint64_t>(words), begin, n, width, at<std::uint8_t>(codes));
          },
          unlocked);
}

}  // namespace

PYBIND11_MODULE(_kernels, m) {
  m.doc() = "The torch-free kernels of every target, on addresses given as integers.";

  py::enum_<DType>(m, "DType")
      .value("F16", DType::F16)
      .value("BF16", DType::BF16)
      .value("F32", DType::F32)
      .value("F64", DType::F64);

  py::class_<Pool2d>(m, "Pool2d")
      .def(py::init([](std::int64_t channels, std::vector<std::int64_t> in,
                       std::vector<std::int64_t> out, std::vector<std::int64_t> kernel,
                       std::vector<std::int64_t> stride, std::vector<std::int64_t> pad,
                       std::vector<std::int64_t> dilation, bool fused_relu) {
             return Pool2d{channels,     in.at(0),       in.at(1),       out.at(0),    out.at(1),
                           kernel.at(0), kernel.at(1),   stride.at(0),   stride.at(1), pad.at(0),
                           pad.at(1),    dilation.at(0), dilation.at(1), fused_relu};
           }),
           py::kw_only(), py::arg("channels"), py::arg("input"), py::arg("output"),
           py::arg("kernel"), py::arg("stride"), py::arg("pad"), py::arg("dilation"),
           py::arg("fused_relu"));

  py::class_<Affine>(m, "Affine")
      .def(py::init([](Address a, Address b, std::int64_t channels, std::int64_t inner) {
             return Affine{at<void>(a), at<void>(b), channels, inner};
           }),
           py::kw_only(), py::arg("a"), py::arg("b"), py::arg("channels"), py::arg("inner"));

  py::class_<Planes>(m, "Planes")
      .def(py::init([](std::int64_t images, std::int64_t channels, std::int64_t inner) {
             return Planes{images, channels, inner};
           }),
           py::kw_only(), py::arg("images"), py::arg("channels"), py::arg("inner"));

  py::class_<Kernels> cls(m, "Kernels");
  bind_kernels(cls);
  bind_pools(cls);
  bind_batch_norms(cls);

  m.def("stats_are_atens", &fxpass::kernels::stats_are_atens, py::arg("dtype"), py::arg("inner"));
  m.def("targets", &targets, "The targets this CPU runs, slowest first.");
  m.def("get", &get, py::arg("target"), py::return_value_policy::reference,
        "The kernels of one target; ValueError where this CPU cannot run it.");
  m.def(
      "default_target", [] { return std::string(fxpass::kernels::kernels().name); },
      "The target fxpass uses: the best one, or the one FXPASS_TARGET names.");
}
