// keep_input, keep_result: of an op that has run as eager's own, what it saved is kept by a handle.
// They return what they are given, and do nothing where the handle does not fit.
// Source: aten::native_layer_norm, native_group_norm, instance_norm, prelu, glu (their input);
// softmax, log_softmax, sigmoid, tanh (their result).

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

at::Tensor keep_input(const at::Tensor& y, const at::Tensor& x,
                      const std::optional<SavedPtr>& handle) {
  if (y.requires_grad()) swap::input_by_handle(y, x, handle);
  return y;
}

at::Tensor keep_result(const at::Tensor& y, const at::Tensor& x,
                       const std::optional<SavedPtr>& handle) {
  if (y.requires_grad()) swap::result_by_handle(y, x, handle);
  return y;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      "keep_input(Tensor(a) y, Tensor x, __torch__.torch.classes.fxpass.Saved? saved) -> "
      "Tensor(a)");
  m.def(
      "keep_result(Tensor(a) y, Tensor x, __torch__.torch.classes.fxpass.Saved? saved) -> "
      "Tensor(a)");
}

FXPASS_REGISTER("keep_input", keep_input)
FXPASS_REGISTER("keep_result", keep_result)

}  // namespace
}  // namespace fxpass
