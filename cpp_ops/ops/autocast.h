// What eager's autocast does to the arguments of an ATen op, done for the op of ours in its place.
//
// Most ops need nothing of it: autocast leaves the ATen op alone (relu, batch_norm, pools of one or
// two dimensions), or ours calls that op with autograd on, so that eager's own cast happens.
// Source: ATen/autocast_mode.h; which op is in which list: aten/src/ATen/autocast_mode.cpp.
#pragma once

#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <optional>

#include "saved/saved.h"

namespace fxpass::autocast {

// What an op of autocast's fp32 list makes of `x`, in the region we are in.
at::ScalarType dtype_for_fp32_op(const at::Tensor& x);

// Whether a handle may hold on to `x` because the plan says that somebody keeps it anyway. In a
// region those who save an fp32 value may keep a cast of it instead, of half the size.
bool may_hold_dense(const at::Tensor& x);

// The handle of `cast`, which is x.to(...), from that of x.
std::optional<SavedPtr> handle_of_cast(const at::Tensor& cast, const at::Tensor& x,
                                       const std::optional<SavedPtr>& handle);

// An op (x, handle, weight, bias, ...) whose ATen op is in the list of the lower precision.
template <auto function>
struct LowerPrecision;

template <typename... Rest,
          at::Tensor (*function)(const at::Tensor&, const std::optional<SavedPtr>&,
                                 const at::Tensor&, const std::optional<at::Tensor>&, Rest...)>
struct LowerPrecision<function> {
  static at::Tensor call(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                         const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         Rest... rest) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
    const auto to = at::autocast::get_autocast_dtype(at::kCPU);
    // The last argument first, as the compiler has it in eager: the order of the casts' nodes is
    // the order of their gradients' sums.
    const auto cast_bias = at::autocast::cached_cast(to, bias, at::kCPU);
    const auto cast_weight = at::autocast::cached_cast(to, weight, at::kCPU);
    const auto cast_x = at::autocast::cached_cast(to, x, at::kCPU);
    return function(cast_x, handle_of_cast(cast_x, x, handle), cast_weight, cast_bias, rest...);
  }
};

}  // namespace fxpass::autocast

// Beside FXPASS_REGISTER, for an op whose ATen op is in autocast's list of the lower precision.
#define FXPASS_AUTOCAST_LOWER_PRECISION(NAME, FUNCTION)               \
  TORCH_LIBRARY_IMPL(fxpass, AutocastCPU, m) {                        \
    m.impl(NAME, fxpass::autocast::LowerPrecision<(FUNCTION)>::call); \
  }
