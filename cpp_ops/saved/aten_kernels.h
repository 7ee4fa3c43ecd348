// Kernels that ATen's operators call behind their checks, here with memory of the caller's choice.
//
// torch's library exports them as tables with one pointer for each kind of CPU that it was built
// for; where CMake could not tell how many (no FXPASS_ATEN_STUBS), they cannot be called.
// Source: ATen/native/batch_norm.h.
#pragma once

#include <ATen/core/Tensor.h>

#ifdef FXPASS_ATEN_STUBS
#include <ATen/native/batch_norm.h>
#endif

namespace fxpass::aten {

// What a batch norm's gradients are computed from, besides the output's gradient and the input.
struct BatchNorm {
  at::Tensor weight, running_mean, running_var, mean, invstd;  // the first three may be undefined
  bool training;
  double eps;
};

#ifdef FXPASS_ATEN_STUBS
inline constexpr bool kHasStubs = true;

// Per channel: the mean, and the sum of the squared differences from it. x: flat.
inline void batch_norm_sums(const at::Tensor& x, at::Tensor mean, at::Tensor var_sum) {
  at::native::batch_norm_cpu_collect_stats_stub(at::kCPU, mean, var_sum, x);
}

// grad_input may be `grad` itself: no element is written before all sums over its channel are
// there. Of the three results those that are undefined are left out.
inline void batch_norm_backward(const at::Tensor& grad, const at::Tensor& x, const BatchNorm& b,
                                at::Tensor grad_input, at::Tensor grad_weight,
                                at::Tensor grad_bias) {
  at::native::batch_norm_cpu_backward_stub(at::kCPU, grad_input, grad_weight, grad_bias, grad, x,
                                           b.weight, b.running_mean, b.running_var, b.mean,
                                           b.invstd, b.training, b.eps);
}
#else
inline constexpr bool kHasStubs = false;

inline void batch_norm_sums(const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  TORCH_INTERNAL_ASSERT(false);
}
inline void batch_norm_backward(const at::Tensor&, const at::Tensor&, const BatchNorm&,
                                const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  TORCH_INTERNAL_ASSERT(false);
}
#endif

}  // namespace fxpass::aten
