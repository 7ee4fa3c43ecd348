// linear: eager's own graph, its saved input replaced by the handle.
// Source: aten::linear (addmm, or mm and add; views around them for inputs of other than 2 dims).

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/autocast.h"
#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

at::Tensor linear(const at::Tensor& x, const std::optional<SavedPtr>& handle,
                  const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  auto y = at::linear(x, weight, bias);
  // Without a gradient for the weight eager saves no input.
  if (torch::autograd::compute_requires_grad(weight)) swap::linear_input_by_handle(y, x, handle);
  return y;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      fxpass::opaque("linear(Tensor x, __torch__.torch.classes.fxpass.Saved? saved, Tensor weight, "
                     "Tensor? bias=None) -> Tensor"));
}

FXPASS_REGISTER("linear", linear)
FXPASS_AUTOCAST_LOWER_PRECISION("linear", linear)

}  // namespace
}  // namespace fxpass
