// rerun_conv1d/2d/3d, rerun_conv_transpose1d/2d/3d, rerun_linear: handles that run a layer again.
// They are made behind the layer, which writes to nothing:
//
//     y = conv2d(x, sx, w, b);   s = rerun_conv2d(y, x, sx, dense, w, b)
//
// The weight is kept as the layer's own node keeps it: one that was written to before backward
// raises, where eager, having kept the result, may not need it. The bias is copied. Source:
// aten::conv1d/2d/3d, aten::conv_transpose1d/2d/3d, aten::linear.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/autocast.h"
#include "ops/node.h"
#include "ops/schema.h"
#include "saved/rerun.h"

namespace fxpass {
namespace {

using Handle = std::optional<SavedPtr>;
using OptionalTensor = std::optional<at::Tensor>;

// A layer's weight and bias as it saw them, in a region of autocast as cast.
struct Parameters {
  Parameters(const at::Tensor& weight, const OptionalTensor& bias)
      : weight(weight, /*is_output=*/false),
        bias(bias.has_value() ? OptionalTensor(bias->detach().clone()) : std::nullopt) {}

  torch::autograd::SavedVariable weight;
  OptionalTensor bias;
};

// Calls `layer(x, weight, bias)` again.
template <typename Layer>
SavedPtr again(const char* name, const at::Tensor& y, const at::Tensor& x, const Handle& handle,
               bool dense, at::Tensor weight, OptionalTensor bias, Layer layer) {
  if (!at::GradMode::is_enabled()) return c10::make_intrusive<Saved>();
  RerunInputs inputs;
  inputs.hold(x, handle, dense && autocast::may_hold_dense(x));
  if (!inputs.complete()) return c10::make_intrusive<Saved>();
  if (at::autocast::is_autocast_enabled(at::kCPU)) {
    // The layer has just cast them: the region has the weight's cast still.
    const auto to = at::autocast::get_autocast_dtype(at::kCPU);
    if (bias.has_value()) bias = at::autocast::cached_cast(to, bias->detach(), at::kCPU);
    weight = at::autocast::cached_cast(to, weight, at::kCPU);
  }
  auto parameters = std::make_shared<Parameters>(weight, bias);
  auto saved = rerun(name, std::move(inputs), [parameters, layer](std::vector<at::Tensor>& v) {
    const auto weight = parameters->weight.unpack();
    return layer(v[0].to(weight.scalar_type()), weight, parameters->bias);
  });
  saved->bind(y);
  return saved;
}

#define FXPASS_SAVED "__torch__.torch.classes.fxpass.Saved"
#define FXPASS_LAYER \
  "(Tensor y, Tensor x, " FXPASS_SAVED "? saved, bool dense, Tensor weight, Tensor? bias"

#define FXPASS_RERUN_CONV(N)                                                                      \
  SavedPtr rerun_conv##N##d(const at::Tensor& y, const at::Tensor& x, const Handle& handle,       \
                            bool dense, const at::Tensor& weight, const OptionalTensor& bias,     \
                            at::IntArrayRef stride, at::IntArrayRef padding,                      \
                            at::IntArrayRef dilation, std::int64_t groups) {                      \
    return again("conv", y, x, handle, dense, weight, bias,                                       \
                 [s = stride.vec(), p = padding.vec(), d = dilation.vec(), groups](               \
                     const at::Tensor& x, const at::Tensor& w, const OptionalTensor& b) {         \
                   return at::conv##N##d(x, w, b, s, p, d, groups);                               \
                 });                                                                              \
  }                                                                                               \
  SavedPtr rerun_padding_conv##N##d(                                                              \
      const at::Tensor& y, const at::Tensor& x, const Handle& handle, bool dense,                 \
      const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,               \
      c10::string_view padding, at::IntArrayRef dilation, std::int64_t groups) {                  \
    return again("conv", y, x, handle, dense, weight, bias,                                       \
                 [s = stride.vec(), p = std::string(padding), d = dilation.vec(), groups](        \
                     const at::Tensor& x, const at::Tensor& w, const OptionalTensor& b) {         \
                   return at::conv##N##d(x, w, b, s, p, d, groups);                               \
                 });                                                                              \
  }                                                                                               \
  SavedPtr rerun_conv_transpose##N##d(const at::Tensor& y, const at::Tensor& x,                   \
                                      const Handle& handle, bool dense, const at::Tensor& weight, \
                                      const OptionalTensor& bias, at::IntArrayRef stride,         \
                                      at::IntArrayRef padding, at::IntArrayRef output_padding,    \
                                      std::int64_t groups, at::IntArrayRef dilation) {            \
    return again(                                                                                 \
        "conv_transpose", y, x, handle, dense, weight, bias,                                      \
        [s = stride.vec(), p = padding.vec(), o = output_padding.vec(), groups,                   \
         d = dilation.vec()](const at::Tensor& x, const at::Tensor& w, const OptionalTensor& b) { \
          return at::conv_transpose##N##d(x, w, b, s, p, o, groups, d);                           \
        });                                                                                       \
  }                                                                                               \
  TORCH_LIBRARY_FRAGMENT(fxpass, m) {                                                             \
    m.def(fxpass::opaque("rerun_conv" #N "d" FXPASS_LAYER ", int[" #N "] stride=1, int[" #N       \
                         "] padding=0, int[" #N "] dilation=1, int groups=1) -> " FXPASS_SAVED)); \
    m.def(fxpass::opaque("rerun_conv" #N "d.padding" FXPASS_LAYER ", int[" #N                     \
                         "] stride=1, str padding='valid', int[" #N                               \
                         "] dilation=1, int groups=1) -> " FXPASS_SAVED));                        \
    m.def(fxpass::opaque("rerun_conv_transpose" #N "d" FXPASS_LAYER ", int[" #N                   \
                         "] stride=1, int[" #N "] padding=0, int[" #N                             \
                         "] output_padding=0, int groups=1, int[" #N                              \
                         "] dilation=1) -> " FXPASS_SAVED));                                      \
  }                                                                                               \
  FXPASS_REGISTER("rerun_conv" #N "d", rerun_conv##N##d)                                          \
  FXPASS_REGISTER("rerun_conv" #N "d.padding", rerun_padding_conv##N##d)                          \
  FXPASS_REGISTER("rerun_conv_transpose" #N "d", rerun_conv_transpose##N##d)

FXPASS_RERUN_CONV(1)
FXPASS_RERUN_CONV(2)
FXPASS_RERUN_CONV(3)

SavedPtr rerun_linear(const at::Tensor& y, const at::Tensor& x, const Handle& handle, bool dense,
                      const at::Tensor& weight, const OptionalTensor& bias) {
  return again("linear", y, x, handle, dense, weight, bias,
               [](const at::Tensor& x, const at::Tensor& w, const OptionalTensor& b) {
                 return at::linear(x, w, b);
               });
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque("rerun_linear" FXPASS_LAYER "=None) -> " FXPASS_SAVED));
}

FXPASS_REGISTER("rerun_linear", rerun_linear)

}  // namespace
}  // namespace fxpass
