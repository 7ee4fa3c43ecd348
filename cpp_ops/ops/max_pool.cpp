// max_pool1d/2d/3d, with and without indices, and the fused relu_max_pool1d/2d/3d: a code per
// output is kept instead of the input and an int64 index.
// Source: aten::max_pool{1,2,3}d_with_indices.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/max_pool2d.h"
#include "ops/node.h"
#include "ops/relu.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

template <int N>
Pair eager(const at::Tensor& x, const PoolArgs& a) {
  const auto call = [&](auto pool) {
    return pool(x, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode);
  };
  if constexpr (N == 1) return call([](auto&&... v) { return at::max_pool1d_with_indices(v...); });
  if constexpr (N == 2) return call([](auto&&... v) { return at::max_pool2d_with_indices(v...); });
  if constexpr (N == 3) return call([](auto&&... v) { return at::max_pool3d_with_indices(v...); });
}

template <int N>
Windows windows(const at::Tensor& x, const at::Tensor& y, const PoolArgs& args) {
  const auto at_dim = [](at::IntArrayRef list, int d) { return list.size() == 1 ? list[0] : list[d]; };
  const auto strides = args.stride.empty() ? args.kernel_size : args.stride;
  Windows windows;
  for (int d = 0; d < N; ++d) {
    windows.dims.push_back(Windows::strided(
        x.size(x.dim() - N + d), y.size(y.dim() - N + d), at_dim(args.kernel_size, d),
        at_dim(strides, d), at_dim(args.padding, d), at_dim(args.dilation, d)));
  }
  return windows;
}

template <int N>
Pair with_indices(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                  at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  const PoolArgs args{kernel_size, stride, padding, dilation, ceil_mode};
  auto result = eager<N>(x, args);
  const auto& y = std::get<0>(result);
  if (y.requires_grad()) {
    const auto shape = windows<N>(x, y, args);
    if (shape.fits_codes()) swap::max_pool_by_codes(y, shape);
  }
  return result;
}

template <int N>
at::Tensor pool(const at::Tensor& x, const PoolArgs& args, bool fused_relu) {
  if constexpr (N == 2) {
    if (auto y = max_pool2d_by_kernels(x, args, fused_relu)) return *y;
  }
  const auto input = fused_relu ? std::get<0>(fxpass::relu(x)) : x;
  return std::get<0>(with_indices<N>(input, args.kernel_size, args.stride, args.padding,
                                     args.dilation, args.ceil_mode));
}

template <int N, bool fused_relu>
at::Tensor max_pool(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  return pool<N>(x, {kernel_size, stride, padding, dilation, ceil_mode}, fused_relu);
}

#define FXPASS_POOL_ARGS(N)                                                            \
  "(Tensor x, int[" #N "] kernel_size, int[" #N "] stride=[], int[" #N "] padding=0, " \
  "int[" #N "] dilation=1, bool ceil_mode=False)"

#define FXPASS_MAX_POOL(N)                                                            \
  TORCH_LIBRARY_FRAGMENT(fxpass, m) {                                                 \
    m.def("max_pool" #N "d" FXPASS_POOL_ARGS(N) " -> Tensor");                        \
    m.def("max_pool" #N "d_with_indices" FXPASS_POOL_ARGS(N) " -> (Tensor, Tensor)"); \
    m.def("relu_max_pool" #N "d" FXPASS_POOL_ARGS(N) " -> Tensor");                   \
  }                                                                                   \
  FXPASS_REGISTER("max_pool" #N "d", (max_pool<N, false>))                            \
  FXPASS_REGISTER("max_pool" #N "d_with_indices", with_indices<N>)                    \
  FXPASS_REGISTER("relu_max_pool" #N "d", (max_pool<N, true>))

FXPASS_MAX_POOL(1)
FXPASS_MAX_POOL(2)
FXPASS_MAX_POOL(3)

}  // namespace
}  // namespace fxpass
