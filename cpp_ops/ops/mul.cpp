// mul: eager's own graph, each factor that it saves kept by its handle.
// Source: aten::mul.Tensor.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "ops/swap.h"

namespace fxpass {
namespace {

at::Tensor mul(const at::Tensor& a, const std::optional<SavedPtr>& a_handle, const at::Tensor& b,
               const std::optional<SavedPtr>& b_handle) {
  auto y = at::mul(a, b);
  swap::mul_inputs_by_handle(y, a, a_handle, b, b_handle);
  return y;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      fxpass::opaque("mul(Tensor a, __torch__.torch.classes.fxpass.Saved? a_saved, Tensor b, "
                     "__torch__.torch.classes.fxpass.Saved? b_saved) -> Tensor"));
}

FXPASS_REGISTER("mul", mul)

}  // namespace
}  // namespace fxpass
