// The vectorised two-dimensional max pool, with or without the ReLU in front of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fxpass {

struct PoolArgs {
  at::IntArrayRef kernel_size, stride, padding, dilation;
  bool ceil_mode;
};

// max_pool2d(x), or max_pool2d(relu(x)) with fused_relu, keeping a code per output and nothing
// else. Nothing where the kernels do not apply (dtype, layout, device, window, arguments that ATen
// must judge) or no gradient is needed: the caller then takes ATen's way.
std::optional<at::Tensor> max_pool2d_by_kernels(const at::Tensor& x, const PoolArgs& args,
                                                bool fused_relu);

// The same values again, without codes and without a graph.
std::optional<at::Tensor> max_pool2d_again(const at::Tensor& x, const PoolArgs& args,
                                           bool fused_relu);

}  // namespace fxpass
