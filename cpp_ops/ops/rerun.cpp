// rerun_*: handles that run a cheap op again. They are made before the op runs, which may write to
// its inputs, and told their value afterwards:
//
//     s = rerun_add(a, sa, b, sb);   y = a.add_(b);   s = bind(s, y)
//
// hold: for how many fetches each restoration serves.
//
// An input is kept by its handle, or dense where somebody keeps it dense anyway. Not all may be
// held dense in an autocast region: see may_hold_dense. Activations and pools may, as eager's own
// nodes keep their inputs as they are.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/autocast.h"
#include "ops/max_pool2d.h"
#include "ops/node.h"
#include "ops/schema.h"
#include "saved/activations.h"
#include "saved/rerun.h"

namespace fxpass {
namespace {

using Handle = std::optional<SavedPtr>;
using Values = std::vector<at::Tensor>;

SavedPtr nothing() { return c10::make_intrusive<Saved>(); }

SavedPtr bind(SavedPtr saved, const at::Tensor& value, const Handle& otherwise) {
  saved->bind(value);
  return saved->matches(value) || !otherwise.has_value() ? saved : *otherwise;
}

SavedPtr hold(SavedPtr saved, at::IntArrayRef fetches) {
  saved->hold_for(fetches.vec());
  return saved;
}

SavedPtr rerun_activation(const at::Tensor& x, const Handle& handle, c10::string_view name,
                          at::ArrayRef<double> args, bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  const auto& which = activation_named(name, args.size());
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  return rerun(which.name, std::move(inputs), [&which, args = args.vec()](Values& v) {
    if (which.forward_ == nullptr || !is_spare(v[0])) return which.forward(v[0], args);
    which.forward_(v[0], args);
    return std::move(v[0]);
  });
}

SavedPtr rerun_add(const at::Tensor& a, const Handle& a_handle, bool a_dense, const at::Tensor& b,
                   const Handle& b_handle, bool b_dense, const at::Scalar& alpha) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(a, a_handle, a_dense && autocast::may_hold_dense(a));
  inputs.hold(b, b_handle, b_dense && autocast::may_hold_dense(b));
  return rerun("add", std::move(inputs), [alpha](Values& v) {
    const bool in_place = is_spare(v[0]) && v[0].sizes() == v[1].sizes() &&
                          v[0].strides() == v[1].strides() &&
                          v[0].scalar_type() == v[1].scalar_type();
    if (!in_place) return at::add(v[0], v[1], alpha);
    return v[0].add_(v[1], alpha);
  });
}

SavedPtr rerun_mul(const at::Tensor& a, const Handle& a_handle, bool a_dense, const at::Tensor& b,
                   const Handle& b_handle, bool b_dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  // The product's own node keeps a factor if the other one needs a gradient.
  inputs.hold(a, a_handle, (a_dense && autocast::may_hold_dense(a)) || b.requires_grad());
  inputs.hold(b, b_handle, (b_dense && autocast::may_hold_dense(b)) || a.requires_grad());
  return rerun("mul", std::move(inputs), [](Values& v) {
    const bool in_place = is_spare(v[0]) && v[0].scalar_type() == v[1].scalar_type() &&
                          at::infer_size(v[0].sizes(), v[1].sizes()) == v[0].sizes();
    if (!in_place) return at::mul(v[0], v[1]);
    return v[0].mul_(v[1]);
  });
}

SavedPtr rerun_cat(at::TensorList tensors, const c10::List<Handle>& handles, std::int64_t dim) {
  if (!at::GradMode::is_enabled()) return nothing();
  TORCH_CHECK_VALUE(tensors.size() == handles.size(), "fxpass::rerun_cat: ", tensors.size(),
                    " tensors and ", handles.size(), " handles");
  RerunInputs inputs;
  // Together the pieces are no larger than what is made of them. Of several dtypes cat makes by
  // itself what autocast makes of them.
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    inputs.hold(tensors[i], handles[i], autocast::may_hold_dense(tensors[i]));
  }
  return rerun("cat", std::move(inputs), [dim](Values& v) { return at::cat(v, dim); });
}

SavedPtr rerun_contiguous(const at::Tensor& x, const Handle& handle, bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense && autocast::may_hold_dense(x));
  return rerun("contiguous", std::move(inputs), [](Values& v) { return v[0].contiguous(); });
}

SavedPtr rerun_softmax(const at::Tensor& x, const Handle& handle, std::int64_t dim, bool log,
                       bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  return rerun(log ? "log_softmax" : "softmax", std::move(inputs), [dim, log](Values& v) {
    return log ? at::log_softmax(v[0], dim) : at::softmax(v[0], dim);
  });
}

SavedPtr rerun_glu(const at::Tensor& x, const Handle& handle, std::int64_t dim, bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  return rerun("glu", std::move(inputs), [dim](Values& v) { return at::glu(v[0], dim); });
}

// Pools of three dimensions are in autocast's fp32 list, the others in none.
template <int N>
at::ScalarType pooled_dtype(const at::Tensor& x) {
  return N == 3 ? autocast::dtype_for_fp32_op(x) : x.scalar_type();
}

template <auto pool, int N>
SavedPtr rerun_max_pool(const at::Tensor& x, const Handle& handle, at::IntArrayRef kernel_size,
                        at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                        bool ceil_mode, bool fused_relu, bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  return rerun(
      "max_pool", std::move(inputs),
      [kernel = kernel_size.vec(), stride = stride.vec(), padding = padding.vec(),
       dilation = dilation.vec(), ceil_mode, fused_relu, dtype = pooled_dtype<N>(x)](Values& v) {
        if constexpr (N == 2) {
          const PoolArgs args{kernel, stride, padding, dilation, ceil_mode};
          if (auto y = max_pool2d_again(v[0], args, fused_relu)) return *std::move(y);
        }
        if (fused_relu) v[0] = is_spare(v[0]) ? v[0].relu_() : at::relu(v[0]);
        return pool(v[0].to(dtype), kernel, stride, padding, dilation, ceil_mode);
      });
}

template <auto pool, int N>
SavedPtr rerun_avg_pool(const at::Tensor& x, const Handle& handle, at::IntArrayRef kernel_size,
                        at::IntArrayRef stride, at::IntArrayRef padding, bool ceil_mode,
                        bool count_include_pad, std::optional<std::int64_t> divisor_override,
                        bool dense) {
  if (!at::GradMode::is_enabled()) return nothing();
  RerunInputs inputs;
  inputs.hold(x, handle, dense);
  return rerun(
      "avg_pool", std::move(inputs),
      [kernel = kernel_size.vec(), stride = stride.vec(), padding = padding.vec(), ceil_mode,
       count_include_pad, divisor_override, dtype = pooled_dtype<N>(x)](Values& v) {
        return pool(v[0].to(dtype), kernel, stride, padding, ceil_mode, count_include_pad,
                    divisor_override);
      });
}

// avg_pool1d has no divisor.
at::Tensor avg_pool1d(const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                      at::IntArrayRef padding, bool ceil_mode, bool count_include_pad,
                      std::optional<std::int64_t>) {
  return at::avg_pool1d(x, kernel_size, stride, padding, ceil_mode, count_include_pad);
}

#define FXPASS_SAVED "__torch__.torch.classes.fxpass.Saved"

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque("bind(" FXPASS_SAVED " saved, Tensor value, " FXPASS_SAVED
                       "? otherwise=None) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("hold(" FXPASS_SAVED " saved, int[] fetches) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_activation(Tensor x, " FXPASS_SAVED
                       "? saved, str name, float[] args, bool dense) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_add(Tensor a, " FXPASS_SAVED
                       "? a_saved, bool a_dense, Tensor b, " FXPASS_SAVED
                       "? b_saved, bool b_dense, Scalar alpha=1) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_mul(Tensor a, " FXPASS_SAVED
                       "? a_saved, bool a_dense, Tensor b, " FXPASS_SAVED
                       "? b_saved, bool b_dense) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_cat(Tensor[] tensors, " FXPASS_SAVED
                       "?[] saved, int dim=0) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_contiguous(Tensor x, " FXPASS_SAVED
                       "? saved, bool dense) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_softmax(Tensor x, " FXPASS_SAVED
                       "? saved, int dim, bool log, bool dense) -> " FXPASS_SAVED));
  m.def(fxpass::opaque("rerun_glu(Tensor x, " FXPASS_SAVED
                       "? saved, int dim, bool dense) -> " FXPASS_SAVED));
#define FXPASS_RERUN_POOL(N)                                                                      \
  m.def(fxpass::opaque(                                                                           \
      "rerun_max_pool" #N "d(Tensor x, " FXPASS_SAVED "? saved, int[" #N "] kernel_size, int[" #N \
      "] stride=[], int[" #N "] padding=0, int[" #N                                               \
      "] dilation=1, bool ceil_mode=False, bool fused_relu=False, bool dense=False) "             \
      "-> " FXPASS_SAVED));
#define FXPASS_RERUN_AVG_POOL(N)                                                                  \
  m.def(fxpass::opaque(                                                                           \
      "rerun_avg_pool" #N "d(Tensor x, " FXPASS_SAVED "? saved, int[" #N "] kernel_size, int[" #N \
      "] stride, int[" #N                                                                         \
      "] padding, bool ceil_mode, bool count_include_pad, int? divisor_override, bool dense)"     \
      " -> " FXPASS_SAVED));
  FXPASS_RERUN_AVG_POOL(1)
  FXPASS_RERUN_AVG_POOL(2)
  FXPASS_RERUN_AVG_POOL(3)
  FXPASS_RERUN_POOL(1)
  FXPASS_RERUN_POOL(2)
  FXPASS_RERUN_POOL(3)
}

FXPASS_REGISTER("bind", bind)
FXPASS_REGISTER("hold", hold)
FXPASS_REGISTER("rerun_activation", rerun_activation)
FXPASS_REGISTER("rerun_add", rerun_add)
FXPASS_REGISTER("rerun_mul", rerun_mul)
FXPASS_REGISTER("rerun_cat", rerun_cat)
FXPASS_REGISTER("rerun_contiguous", rerun_contiguous)
FXPASS_REGISTER("rerun_softmax", rerun_softmax)
FXPASS_REGISTER("rerun_glu", rerun_glu)
FXPASS_REGISTER("rerun_avg_pool1d", (rerun_avg_pool<avg_pool1d, 1>))
FXPASS_REGISTER("rerun_avg_pool2d", (rerun_avg_pool<at::avg_pool2d, 2>))
FXPASS_REGISTER("rerun_avg_pool3d", (rerun_avg_pool<at::avg_pool3d, 3>))
FXPASS_REGISTER("rerun_max_pool1d", (rerun_max_pool<at::max_pool1d, 1>))
FXPASS_REGISTER("rerun_max_pool2d", (rerun_max_pool<at::max_pool2d, 2>))
FXPASS_REGISTER("rerun_max_pool3d", (rerun_max_pool<at::max_pool3d, 3>))

}  // namespace
}  // namespace fxpass
