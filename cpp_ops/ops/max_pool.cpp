// max_pool1d/2d/3d, with and without indices, and the fused relu_max_pool1d/2d/3d: a code per
// output is kept instead of the input and an int64 index.
// Source: aten::max_pool{1,2,3}d_with_indices.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/max_pool2d.h"
#include "ops/node.h"
#include "ops/relu.h"
#include "ops/relu_max_pool3d.h"
#include "ops/schema.h"
#include "ops/swap.h"
#include "saved/codec.h"

namespace fxpass {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

// The form without indices is eager's own too: it has a kernel of its own where no gradient is
// needed (max_pool1d), and is a stop of autocast's (max_pool3d).
template <int N>
at::Tensor eager_values(const at::Tensor& x, const PoolArgs& a) {
  const auto call = [&](auto pool) {
    return pool(x, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode);
  };
  if constexpr (N == 1) return call([](auto&&... v) { return at::max_pool1d(v...); });
  if constexpr (N == 2) return call([](auto&&... v) { return at::max_pool2d(v...); });
  if constexpr (N == 3) return call([](auto&&... v) { return at::max_pool3d(v...); });
}

template <int N>
Pair eager(const at::Tensor& x, const PoolArgs& a) {
  const auto call = [&](auto pool) {
    return pool(x, a.kernel_size, a.stride, a.padding, a.dilation, a.ceil_mode);
  };
  if constexpr (N == 1) return call([](auto&&... v) { return at::max_pool1d_with_indices(v...); });
  if constexpr (N == 2) return call([](auto&&... v) { return at::max_pool2d_with_indices(v...); });
  if constexpr (N == 3) return call([](auto&&... v) { return at::max_pool3d_with_indices(v...); });
}

// Replaces what eager's node for y = pool(x) keeps.
template <int N>
void keep_codes(const at::Tensor& x, const at::Tensor& y, const PoolArgs& args) {
  if (!y.requires_grad() || !codec::is_plain(y)) return;
  const auto shape =
      Windows::of_pool(N, x, y, args.kernel_size, args.stride, args.padding, args.dilation);
  if (shape.fits_codes()) swap::max_pool_by_codes(y, x, shape);
}

template <int N>
Pair with_indices(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                  at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  const PoolArgs args{kernel_size, stride, padding, dilation, ceil_mode};
  auto result = eager<N>(x, args);
  keep_codes<N>(x, std::get<0>(result), args);
  return result;
}

// One dimension is two, one of them of size 1: so ATen has it too.
std::optional<at::Tensor> max_pool1d_by_kernels(const at::Tensor& x, const PoolArgs& args,
                                                bool fused_relu) {
  const auto one = [](at::IntArrayRef list) { return list.size() == 1; };
  const bool default_stride = args.stride.empty();
  if ((x.dim() != 2 && x.dim() != 3) || !one(args.kernel_size) || !one(args.padding) ||
      !one(args.dilation) || !(default_stride || one(args.stride))) {
    return std::nullopt;
  }
  const std::array<std::int64_t, 2> kernel_size{1, args.kernel_size[0]},
      stride{1, default_stride ? args.kernel_size[0] : args.stride[0]}, padding{0, args.padding[0]},
      dilation{1, args.dilation[0]};
  const auto y = max_pool2d_by_kernels(
      x.unsqueeze(-2), {kernel_size, stride, padding, dilation, args.ceil_mode}, fused_relu);
  return y ? std::optional(y->squeeze(-2)) : std::nullopt;
}

template <int N>
std::optional<at::Tensor> ours(const at::Tensor& x, const PoolArgs& args, bool fused_relu) {
  if constexpr (N == 1) return max_pool1d_by_kernels(x, args, fused_relu);
  if constexpr (N == 2) return max_pool2d_by_kernels(x, args, fused_relu);
  return fused_relu ? relu_max_pool3d(x, args) : std::nullopt;
}

template <int N>
at::Tensor eager_pool(const at::Tensor& x, const PoolArgs& args) {
  auto y = eager_values<N>(x, args);
  keep_codes<N>(x, y, args);
  return y;
}

template <int N>
at::Tensor max_pool(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode) {
  const PoolArgs args{kernel_size, stride, padding, dilation, ceil_mode};
  if (auto y = ours<N>(x, args, /*fused_relu=*/false)) return *y;
  return eager_pool<N>(x, args);
}

// inplace: eager's ReLU is. x stays as it is, but the pool's input has its strides.
template <int N>
at::Tensor relu_max_pool(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                         at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode,
                         bool inplace) {
  const PoolArgs args{kernel_size, stride, padding, dilation, ceil_mode};
  if (auto y = ours<N>(x, args, /*fused_relu=*/true)) return *y;
  return eager_pool<N>(inplace ? relu_unwritten(x) : std::get<0>(fxpass::relu(x)), args);
}

#define FXPASS_POOL_ARGS(N)                                            \
  "(Tensor x, int[" #N "] kernel_size, int[" #N "] stride=[], int[" #N \
  "] padding=0, "                                                      \
  "int[" #N "] dilation=1, bool ceil_mode=False"

#define FXPASS_MAX_POOL(N)                                                               \
  TORCH_LIBRARY_FRAGMENT(fxpass, m) {                                                    \
    m.def(fxpass::opaque("max_pool" #N "d" FXPASS_POOL_ARGS(N) ") -> Tensor"));          \
    m.def(fxpass::opaque("max_pool" #N                                                   \
                         "d_with_indices" FXPASS_POOL_ARGS(N) ") -> (Tensor, Tensor)")); \
    m.def(fxpass::opaque("relu_max_pool" #N                                              \
                         "d" FXPASS_POOL_ARGS(N) ", bool inplace=False) -> Tensor"));    \
  }                                                                                      \
  FXPASS_REGISTER("max_pool" #N "d", max_pool<N>)                                        \
  FXPASS_REGISTER("max_pool" #N "d_with_indices", with_indices<N>)                       \
  FXPASS_REGISTER("relu_max_pool" #N "d", relu_max_pool<N>)

FXPASS_MAX_POOL(1)
FXPASS_MAX_POOL(2)
FXPASS_MAX_POOL(3)

}  // namespace
}  // namespace fxpass
